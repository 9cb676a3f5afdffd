"""Damaged artifacts: what reads them says which file it is, or does its own work again."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.drill.kills import Tracer, Trial
from tests.drill.project import PROFILE, STAGES, Stage, leftovers, run
from tests.pipeline.artifact import content

Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    """Another bit in the middle."""
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)


def truncate(path: Path) -> None:
    """The second half is lost."""
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])


def empty(path: Path) -> None:
    """As a crash of the machine leaves files that were not flushed."""
    path.write_bytes(b"")


def other(path: Path) -> None:
    """Valid JSON that is something else."""
    path.write_text("[]\n")


def huge(path: Path) -> None:
    """Valid JSON with a number of no sense."""
    path.write_text('{"deter": 1000000000000000000000, "bytes": 1e400, "step": "x"}\n')


def deep(path: Path) -> None:
    """More brackets than a parser can take."""
    path.write_text("[" * 200_000)


def remove(path: Path) -> None:
    """The file is gone."""
    path.unlink()


_DAMAGES = (flip, truncate, empty, other, huge, deep, remove)

# What reads each file of a complete artifact; all of them must refuse it, naming file or artifact.
_READERS = [
    ("index/index.json", "convert"),
    ("index/manifest.json", "convert"),
    ("store/manifest.json", "extract"),
    ("store/training.zarr/zarr.json", "extract"),
    ("demos/demos.json", "featurize wam"),
    ("demos/manifest.json", "featurize wam"),
    ("world_model/wam/model.safetensors", "featurize wam"),
    ("world_model/wam/config.json", "featurize wam"),
    ("features/wam/close_drawer/features.safetensors", "train-reward wam"),
    ("features/wam/summary.json", "train-policy wam"),
    ("policy/wam/close_drawer/model.safetensors", "finetune wam"),
    ("policy/wam/close_drawer/config.json", "finetune wam"),
    ("reward/wam/summary.json", "finetune wam"),
    ("reward/wam/close_drawer/model.safetensors", "finetune wam"),
    ("world_model/wam/validation.jsonl", "report"),
    ("finetune/wam/close_drawer/seed-0/metrics.jsonl", "report"),
    ("evaluation/wam/rollouts.json", "report"),
    ("evaluation/controls/summary.json", "report"),
]

# What a killed stage has left in its partial directory, by a pattern; it must end well all the
# same, or name the file and end well without it.
_WORK = [
    ("convert", ".work/run.json"),
    ("convert", ".work/records/*.json"),
    ("convert", "training.zarr/rgb_static/c.*"),
    ("export lerobot", ".work/*/*.json"),
    ("train-world-model wam", ".work/run.json"),
    ("train-world-model wam", ".work/checkpoints/*"),
    ("train-world-model wam", "metrics.jsonl"),
    ("featurize wam", "*/summary.json"),
    ("train-reward wam", "*/summary.json"),
    ("train-policy wam", "*/metrics.jsonl"),
    ("finetune wam", ".work/*/*/checkpoint.safetensors"),
    ("finetune wam", "*/*/summary.json"),
]


def trials(project: Path) -> Iterator[Trial]:
    """All of them; every stage of ``project`` has run."""
    stages = {stage.name: stage for stage in STAGES}
    for file, reader in _READERS:
        for damage in _DAMAGES:
            yield _read(project, project / "data" / PROFILE / file, damage, stages[reader])
    for name, pattern in _WORK:
        for damage in (truncate, empty, other):
            yield _continued(project, stages[name], pattern, damage)


def _read(project: Path, path: Path, damage: Damage, reader: Stage) -> Trial:
    output = reader.directory(project)
    kept = output.with_name(f"{output.name}.kept")
    output.rename(kept)
    saved = path.read_bytes()
    damage(path)
    ended = run(project, reader.argv)
    problems = [f"traceback: {ended.output[-600:]}"] if ended.has_traceback else []
    artifact = path.relative_to(project / "data" / PROFILE).parts[0]
    if ended.status != 1:
        problems.append(f"ended with {ended.status}: {ended.output[-300:]}")
    elif str(Path("data") / PROFILE / artifact) not in ended.output:
        problems.append(f"names no file: {ended.output[-300:]}")
    path.write_bytes(saved)
    for left in output.parent.glob(f"{output.name}*"):
        if left != kept and left.is_dir() and left.name.split(".")[0] == output.name:
            shutil.rmtree(left)
    kept.rename(output)
    where = f"{path.relative_to(project / 'data' / PROFILE)}: {damage.__name__}"
    return Trial(reader.name, "damaged artifact", where, tuple(problems))


def _continued(project: Path, stage: Stage, pattern: str, damage: Damage) -> Trial:
    output = stage.directory(project)
    expected = content(output)
    kept = output.with_name(f"{output.name}.kept")
    output.rename(kept)
    partial = output.with_name(f"{output.name}.partial")

    def kill(event: str, path: object) -> None:
        if str(path).endswith("manifest.json") or ".manifest.json" in str(path):
            os.kill(os.getpid(), signal.SIGKILL)

    tracer = Tracer(partial, act=kill)
    run(project, stage.argv, tracer.install)
    found = sorted(partial.glob(pattern))
    problems = [] if found else ["nothing to damage"]
    if found:
        damage(found[-1])
    ended = run(project, stage.argv)
    if ended.status == 1 and not ended.has_traceback and found and found[-1].name in ended.output:
        found[-1].unlink()
        ended = run(project, stage.argv)
    if ended.status != 0:
        problems.append(f"ended with {ended.status}: {ended.output[-600:]}")
    elif content(output) != expected:
        problems.append("other bytes")
    problems += [
        f"left: {name}"
        for name in leftovers(output)
        if "set-aside" not in name and name != kept.name
    ]
    for left in output.parent.glob(f"{output.name}*"):
        if left != kept and left.is_dir() and left.name.split(".")[0] == output.name:
            shutil.rmtree(left)
    kept.rename(output)
    return Trial(stage.name, "damaged work", f"{pattern}: {damage.__name__}", tuple(problems))
