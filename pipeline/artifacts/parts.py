"""Artifacts whose parts are made one after the other, each of which is kept once it is finished."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.manifests import SUMMARY, read_json, write_json
from wam.training.checkpoint import StateFile
from wam.training.journal import Journal


class Part(NamedTuple):
    """A part that is being made, for a task or for a task and a seed."""

    name: str
    directory: Path
    """Its content goes here."""
    work: Path
    """For what is of use until the artifact is complete."""
    journal: Journal
    """``metrics.jsonl`` of its training"""
    checkpoint: StateFile
    """For the state of its training, and with it the journal"""
    state: dict[str, Any] | None
    """The last state that an interrupted run left there; the journal is that of the same time"""
    advance: Callable[..., None]
    """``advance(count=1, note="")``, for the steps that it has made"""


def make_parts(
    target: Build,
    names: Collection[str],
    make: Callable[[Part], None],
    *,
    title: str,
    steps: int,
    unit: str,
    is_enough: Callable[[Path], bool] = lambda directory: True,
) -> None:
    """Let ``make`` fill the directory of every part that an earlier run has not finished.

    The progress bar called ``title`` shows the ``steps`` of each, counted in ``unit``. A finished
    part is made longer where ``is_enough(directory)`` does not hold. Raises WamError if
    the checkpoint of a begun one is damaged.
    """
    with console.progress(title, len(names) * steps, unit) as advance:
        for name in names:
            directory, work = target.directory / name, target.work / name
            if target.is_finished(name) and is_enough(directory):
                advance(steps, name.split("/")[0])
                continue
            directory.mkdir(parents=True, exist_ok=True)
            journal = Journal(directory / "metrics.jsonl")
            checkpoint = StateFile(work / "checkpoint.safetensors", journal)
            state = checkpoint.load()
            make(Part(name, directory, work, journal, checkpoint, state, advance))
            target.finish(name, directory.iterdir())


def build_tasks(
    output: Path,
    tasks: Collection[str],
    make: Callable[[Part], None],
    *,
    title: str,
    steps: int,
    unit: str,
    stage: str,
    params: dict[str, Any],
    inputs: dict[str, str],
    free: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """:func:`build` ``output`` of a part per task, to which tasks may be added.

    ``make`` leaves a summary in each; returns these by task, as they lie in ``output`` too.
    """

    def make_all(target: Build) -> None:
        make_parts(target, tasks, make, title=title, steps=steps, unit=unit)
        summary = {task: read_json(target.directory / task / SUMMARY) for task in tasks}
        write_json(target.directory / SUMMARY, summary)

    params = {**params, "tasks": list(tasks)}
    build(output, make_all, stage=stage, params=params, inputs=inputs, free=free, growing=["tasks"])
    return read_json(output / SUMMARY)
