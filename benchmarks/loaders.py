"""Windows of frames from our loaders and from today's other engines, all on the same frames.

The frames are those of a store: recorded with the embedded simulator, or a part of a raw data set.
All other formats are written from it. Every engine reads the same windows, drawn by the same seed,
and takes turns with the others, so that the ratios of one run can be trusted on a busy machine.
Figures are medians of the rounds. What an engine delivers is compared with the store's rows before
it is timed.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
import torch

import engines
from contestants import CONTESTANTS, OURS, SMALL_CHUNKS, Contestant, Data
from formats import LIBRARIES, has
from frames import add_options, record, size_of
from line import Line, line
from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.batches.order import all_windows
from pipeline.calvin import on_disk
from pipeline.calvin.fields import CAMERAS
from pipeline.params import load_profile
from pipeline.stages import convert, export, index
from pipeline.store.open import Store
from pipeline.webdataset.read import open_split
from readers import OwnShards, Reader, Starts, WithTorch
from turns import PARAMS, Rates, options, take_turns

LENGTHS = (50, 8)
BATCH_FRAMES = 400
MOST_BATCHES = 400
LINES = {"250_mbit": 250e6 / 8, "1_gbit": 1e9 / 8, "no_limit": float("inf")}
"""Bytes per second of the lines over which data are read."""
PACKAGES = ("torch", "zarr", "zarrs", "webdataset", "lerobot", "pylance")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(1)
    if arguments.of is not None:
        root, cores = arguments.of
        result = reading_here(
            Data(Path(root)), int(cores), arguments.rounds, arguments.seconds, CONTESTANTS
        )
    else:
        with tempfile.TemporaryDirectory(prefix="wam-loaders-") as scratch:
            data = Data(arguments.data or Path(scratch))
            prepare(data, arguments.raw, arguments.frames)
            result = loaders(data, arguments.rounds, arguments.seconds)
    console.figures(result, as_json=arguments.json)


def loaders(data: Data, rounds: int, seconds: float) -> dict[str, Any]:
    """All figures of the data: sizes, rates, ratios to ours, and over a line."""
    rates = {f"{cores}_core": _in_own_process(data, cores, rounds, seconds) for cores in (1, 2)}
    return {
        "frames": data.store.num_frames,
        "versions": {name: _version(name) for name in PACKAGES},
        "engines": {
            name: summary(data, name, contestant, rates) for name, contestant in CONTESTANTS.items()
        },
        "ratios": {cores: found["ratios"] for cores, found in rates.items()},
        "remote": remote(data, rounds, seconds),
    }


def prepare(data: Data, raw: Path | None, frames: int) -> None:
    """Write the frames in every format of an engine that is installed, unless they are there."""
    layout = Layout(data.root)
    if raw is None:
        profile = record(data.root, frames)
    else:
        base = load_profile("ci", PARAMS)
        ranges = {
            split: ((first, first + count - 1),)
            for split, count in (("training", frames), ("validation", frames // 4))
            for first in [int(on_disk.read_episodes(raw / split)[0, 0])]
        }
        profile = replace(
            base,
            raw=replace(base.raw, path=str(raw)),
            tasks=(),
            env=replace(base.env, differences="allow"),  # nobody acts in a world here
            convert=replace(base.convert, frames=ranges, workers=1),
        )
        index.run(profile, layout)
        convert.run(profile, layout, map)
    # Tars so small that the few that are held for shuffling are not all of them.
    export.run(replace(profile, export=replace(profile.export, sequences_per_shard=4)), layout)
    index.run(profile, data.small_chunks)
    small = replace(profile, convert=replace(profile.convert, **SMALL_CHUNKS))
    convert.run(small, data.small_chunks, map)
    content = engines.Frames(
        {name: data.store.read(name) for name in data.store.arrays}, data.store.episodes
    )
    for name, contestant in CONTESTANTS.items():
        target = data.engine(name)
        if contestant.write is None or not has(contestant.needs) or target.is_dir():
            continue
        console.note(f"{name}: writing {len(content.arrays['frame_id']):,} frames")
        partial_target = target.with_name(f"{name}.partial")
        shutil.rmtree(partial_target, ignore_errors=True)
        partial_target.mkdir(parents=True)
        contestant.write(content, partial_target)
        partial_target.rename(target)


def summary(
    data: Data, name: str, contestant: Contestant, rates: Mapping[str, Any]
) -> dict[str, Any] | str:
    """Size and rates of an engine; how to get it, if it is not installed."""
    if not has(contestant.needs):
        return f"not installed: pip install {contestant.install}"
    return {
        "bytes_per_frame": round(size_of(contestant.files(data)) / data.store.num_frames),
        "lossless": contestant.lossless,
        **{cores: found[name] for cores, found in rates.items()},
    }


def _in_own_process(data: Data, cores: int, rounds: int, seconds: float) -> dict[str, Any]:
    """:func:`reading_here` where no thread or process ever has more than these cores."""
    found = subprocess.run(
        [
            *(sys.executable, __file__, "--of", str(data.root), str(cores)),
            *("--rounds", str(rounds), "--seconds", str(seconds), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    return json.loads(found.stdout.splitlines()[-1])


def reading_here(
    data: Data,
    cores: int,
    rounds: int,
    seconds: float,
    contestants: Mapping[str, Contestant],
) -> dict[str, Any]:
    """Frames per second by contestant and use, and the ratios of ours to theirs (``ratios``).

    On one core everything happens in this thread, and a rate is of processor time, which other
    programs do not take away. On two there are two workers: threads of ours, processes of PyTorch's
    DataLoader for the others. Raises WamError or AssertionError if a contestant reads anything else
    than the store's rows.
    """
    clock = time.process_time if cores == 1 else time.perf_counter
    readers = {
        name: contestant.reader(data, 0 if cores == 1 else cores)
        for name, contestant in contestants.items()
        if has(contestant.needs)
    }
    result: dict[str, Any] = {name: {} for name in readers}
    result["ratios"] = {}
    for length, shuffled in itertools.product(LENGTHS, (True, False)):
        use = f"{length}_{'random' if shuffled else 'in_order'}"
        drawn = starts(data.store, length, shuffled=shuffled)
        taking_part = {
            name: reader
            for name, reader in readers.items()
            if shuffled or not contestants[name].streams
        }
        for name, reader in taking_part.items():
            found = check(data, reader, drawn[:2], length, contestants[name])
            result[name].update(found)
        rates = take_turns(
            {
                name: calibrated(
                    reader,
                    drawn,
                    length,
                    seconds,
                    clock,
                    epoch(data.store) if contestants[name].streams else 1,
                )
                for name, reader in taking_part.items()
            },
            rounds,
            clock,
        )
        for name, of_rounds in rates.items():
            result[name][use] = round(statistics.median(of_rounds))
        result["ratios"][use] = ratios(rates)
    return result


def starts(store: Store, length: int, *, shuffled: bool) -> Starts:
    """First rows of the windows of every batch: drawn at random, or one after the other."""
    count = max(MOST_BATCHES, epoch(store))
    rows = BATCH_FRAMES // length
    possible = all_windows(store.episodes, length)
    if shuffled:
        return list(np.random.default_rng(0).choice(possible, (count, rows)))
    in_order = np.concatenate(
        [np.arange(start, stop - length + 1, length) for start, stop in store.episodes.tolist()]
    )
    batches = np.resize(in_order, len(in_order) // rows * rows).reshape(-1, rows)
    return list(itertools.islice(itertools.cycle(batches), count))


def calibrated(
    reader: Reader,
    drawn: Starts,
    length: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    multiple_of: int = 1,
) -> Callable[[], int]:
    """Reads batches for about so many seconds, always equally many; returns how many frames.

    Tars are decoded when they are opened: of them ``multiple_of`` is :func:`epoch`.
    """

    def read(count: int) -> int:
        return sum(
            windows["rgb_static"].shape[0] * windows["rgb_static"].shape[1]
            for windows in reader.batches(drawn[:count], length)
        )

    few = 2
    read(few)
    start = clock()
    read(few)
    wanted = seconds * few / max(clock() - start, 1e-6)
    most = len(drawn) // multiple_of
    return partial(read, min(max(round(wanted / multiple_of), 1), most) * multiple_of)


def epoch(store: Store) -> int:
    """Batches that hold about as many frames as the store."""
    return -(-store.num_frames // BATCH_FRAMES)


def check(
    data: Data, reader: Reader, drawn: Starts, length: int, contestant: Contestant
) -> dict[str, float]:
    """Compare what is read with the rows of the store, exactly where it is lossless.

    Returns the PSNR (dB) of the images where it is not.
    """
    expected = {name: data.store.read(name) for name in (*CAMERAS, "rel_actions")}
    row_of = {
        action.tobytes() + image.tobytes(): row
        for row, (action, image) in enumerate(
            zip(expected["rel_actions"], expected["rgb_static"], strict=True)
        )
    }
    errors = []
    for rows, windows in zip(drawn, reader.batches(drawn, length), strict=False):
        found = {name: np.asarray(windows[name]) for name in expected}
        if contestant.streams:
            firsts = zip(found["rel_actions"][:, 0], found["rgb_static"][:, 0], strict=True)
            rows = [row_of[action.tobytes() + image.tobytes()] for action, image in firsts]
        for place, row in enumerate(rows):
            for name, values in expected.items():
                window = found[name][place]
                if name in CAMERAS:
                    window = as_uint8(window)
                if contestant.lossless or name not in CAMERAS:
                    np.testing.assert_array_equal(window, values[row : row + length])
                else:
                    difference = window.astype(float) - values[row : row + length]
                    errors.append(np.mean(difference**2))
    return {"psnr_db": round(10 * np.log10(255**2 / np.mean(errors)), 1)} if errors else {}


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images [T, H, W, 3]; LeRobot's are [T, 3, H, W], and of floats in [0, 1] unless video."""
    if images.dtype != np.uint8:
        images = np.round(images * 255).astype(np.uint8)
    return images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)


def ratios(rates: Rates) -> dict[str, dict[str, float]]:
    """Of each of our ways to every other engine, round by round; the median of these."""
    return {
        own: {
            name: round(statistics.median(map(truediv, rates[own], of_rounds)), 2)
            for name, of_rounds in rates.items()
            if name not in OURS
        }
        for own in OURS
        if own in rates
    }


def remote(data: Data, rounds: int, seconds: float) -> dict[str, Any]:
    """Shards with our loader and the store with zarr-python, from disk and over lines; two workers.

    ``of_local`` is the share of the rate from disk, ``of_line`` that of the line's bytes per second
    in use; both are medians of the rounds.
    """
    drawn = starts(data.store, LENGTHS[0], shuffled=True)
    with _lines(Layout(data.root).root) as lines:
        result = {}
        for name, reader in {
            "shards": lambda root: OwnShards(open_split(f"{root}/shards", "training"), 2),
            "store_by_zarr": lambda root: WithTorch(
                engines.Zarr(f"{root}/store/training.zarr", LIBRARIES["zarr"], 1), 2
            ),
        }.items():
            places = {"local": str(data.root), **{key: at.url for key, at in lines.items()}}
            used: Rates = {key: [] for key in lines}
            contestants = {
                key: calibrated(
                    reader(root),
                    drawn,
                    LENGTHS[0],
                    seconds,
                    multiple_of=epoch(data.store) if name == "shards" else 1,
                )
                for key, root in places.items()
            }
            for key, at in lines.items():
                contestants[key] = partial(_metered, contestants[key], at, used[key])
            rates = take_turns(contestants, rounds)  # the first use of a line is not in them
            result[name] = {"local": round(statistics.median(rates["local"]))}
            for key, bytes_per_s in LINES.items():
                of_local = statistics.median(map(truediv, rates[key], rates["local"]))
                result[name][key] = {
                    "frames_per_s": round(statistics.median(rates[key])),
                    "of_local": round(of_local, 3),
                }
                if bytes_per_s < float("inf"):
                    share = statistics.median(used[key][1:]) / bytes_per_s
                    result[name][key]["of_line"] = round(share, 3)
    return result


def _metered(read: Callable[[], int], at: Line, used: list[float]) -> int:
    """``read()``, and note the bytes per second that came over the line meanwhile."""
    sent, start = at.sent.value, time.perf_counter()
    count = read()
    used.append((at.sent.value - sent) / (time.perf_counter() - start))
    return count


@contextlib.contextmanager
def _lines(root: Path) -> Iterator[dict[str, Line]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(line(root, rate)) for name, rate in LINES.items()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_options(parser)
    parser.add_argument(
        "--raw", type=Path, metavar="DIR", help="take the first frames of this raw data set"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of one engine's turn (default: 1)"
    )
    parser.add_argument("--of", nargs=2, metavar=("ROOT", "CORES"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
