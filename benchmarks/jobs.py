"""A whole profile, one stage after another and side by side: what ``wam run --jobs`` saves.

Every run begins in a new clone of the repository's HEAD, without any artifact. Three ways have to
leave the same bytes, by the digests in ``dvc.lock``: one stage at a time whose tasks come one after
another too (``one_worker``), one stage at a time whose tasks take all cores (``serial``), and as
many stages as ``--jobs`` says (by default as many as ``make run`` takes). ``share_of_…`` is the
last one's time by that of the others. ``--share`` shortens play and trainings: what they begin with
then counts for more. ``--ways`` leaves some out, ``--keep`` keeps the clones.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.turns import PARAMS, options, ratio
from pipeline import console

ROOT = Path(__file__).resolve().parents[1]


WAYS = "one_worker", "serial", "side_by_side"

LENGTHS = (
    ("collect", "training_frames"),
    ("collect", "validation_frames"),
    ("collect", "max_starts_per_task"),
    ("train_world_model", "updates"),
    ("refine_world_model", "updates"),
    ("reward", "epochs"),
    ("policy", "updates"),
    ("finetune", "iterations"),
)
"""What ``--share`` shortens."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parsed = _parser().parse_args(arguments)
    contestants: dict[str, tuple[list[str], dict[str, str]]] = {
        "one_worker": (["--jobs", "1"], {"OMP_NUM_THREADS": "1"}),
        "serial": (["--jobs", "1"], {}),
        "side_by_side": (["--jobs", str(parsed.jobs)] if parsed.jobs else [], {}),
    }
    contestants = {name: contestants[name] for name in parsed.ways}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    digests = set()
    for _ in range(parsed.rounds):
        for name, way in contestants.items():
            with scratch(name, parsed.keep) as folder:
                place = folder / "wam"
                clone(place, parsed.profile, parsed.share)
                times[name].append(timed(place, parsed.profile, *way))
                digests.add(outputs(place, parsed.profile))
    console.figures(figures(times, len(next(iter(digests)))), as_json=parsed.json)
    if len(digests) != 1:
        raise RuntimeError(f"{len(digests)} results where one was expected")


@contextlib.contextmanager
def scratch(name: str, keep: Path | None) -> Iterator[Path]:
    """A folder of its own, which stays where ``keep`` is one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="wam-jobs-") as folder:
            yield Path(folder)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix=f"{name}-", dir=keep))


def clone(place: Path, profile: str, share: float) -> None:
    """The repository at ``place``, the lengths of ``profile`` multiplied by ``share``."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
    if share == 1:
        return
    params = yaml.safe_load((place / PARAMS.name).read_text())
    for section, name in LENGTHS:
        settings = params[profile][section]
        if settings[name]:  # 0 leaves something out
            settings[name] = max(1, round(share * settings[name]))
    (place / PARAMS.name).write_text(yaml.safe_dump(params, sort_keys=False))


def timed(place: Path, profile: str, given: Sequence[str], variables: Mapping[str, str]) -> float:
    """Seconds that the profile takes in the clone at ``place``."""
    command = [sys.executable, "-m", "pipeline", "run", "--profile", profile, *given]
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(place), **variables}
    # What it prints is no figure.
    subprocess.run(command, cwd=place, env=environment, stdout=sys.stderr, check=True)
    return time.perf_counter() - start


def outputs(place: Path, profile: str) -> tuple[tuple[str, str], ...]:
    """Path and digest of every output of ``profile`` in ``dvc.lock``."""
    stages = yaml.safe_load((place / "dvc.lock").read_text())["stages"].values()
    outs = [out for stage in stages for out in stage["outs"]]
    own = [out for out in outs if Path(out["path"]).is_relative_to(Path("data") / profile)]
    return tuple(sorted((out["path"], out["md5"]) for out in own))


def figures(times: dict[str, list[float]], outputs: int) -> dict[str, Any]:
    """The fastest of every way, and the last one's share of the others."""
    best = {name: min(found) for name, found in times.items()}
    return {
        **{f"{name}_s": round(seconds, 1) for name, seconds in best.items()},
        **{f"{name}_s_median": round(statistics.median(s), 1) for name, s in times.items()},
        **{
            f"share_of_{name}": ratio(best["side_by_side"], best[name])
            for name in WAYS[:2]
            if {name, "side_by_side"} <= set(best)
        },
        "outputs": outputs,
    }


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--profile", default="ci", help="what is run (default: ci)")
    about = "of the profile's frames, updates, epochs and iterations (default: 1)"
    parser.add_argument("--share", type=float, default=1.0, help=about)
    about = "stages side by side (default: as `make run`)"
    parser.add_argument("--jobs", type=int, help=about)
    about = "what is compared, in this order (default: all)"
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help=about)
    about = "folder in which the clones stay (default: they are removed)"
    parser.add_argument("--keep", type=Path, help=about)
    return parser


if __name__ == "__main__":
    main()
