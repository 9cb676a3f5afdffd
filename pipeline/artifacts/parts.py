"""Artifacts whose parts are made one by one or side by side; each is kept once it is finished."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.locks import exclusive
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


class Place(NamedTuple):
    """Where a part is made."""

    name: str
    directory: Path
    work: Path


Tell = Callable[[str, int, str], None]
"""Called with the name of a part or job, how many steps it made, and a note."""
Runner = Callable[
    [Callable[[Place, Tell], str], Sequence[Place], Tell],
    Iterable[str],
]
"""Makes all parts, wherever, and yields the name of each when it is finished."""
Runners = Callable[[int], AbstractContextManager[Runner]]
"""A runner for so many parts."""


def one_by_one(
    make: Callable[[Place, Tell], str], places: Sequence[Place], tell: Tell
) -> Iterable[str]:
    """The runner that makes parts in this process."""
    return (make(place, tell) for place in places)


def counted(advance: Callable[..., None], steps: Mapping[str, int]) -> Tell:
    """Moves a bar by what each job tells, by no more than its ``steps``: what a lost worker had
    begun is begun again elsewhere."""
    left = dict(steps)

    def tell(name: str, count: int, note: str) -> None:
        count = min(count, left[name])
        left[name] -= count
        advance(count, note)

    return tell


def make_parts(
    target: Build,
    names: Collection[str],
    make: Callable[[Part], None],
    *,
    title: str,
    steps: int,
    unit: str,
    is_enough: Callable[[Path], bool] = lambda directory: True,
    runners: Runners = lambda count: nullcontext(one_by_one),
) -> None:
    """Let ``make`` fill the directory of every part that an earlier run has not finished.

    The progress bar called ``title`` shows the ``steps`` of each, counted in ``unit``. A finished
    part is made longer where ``is_enough(directory)`` does not hold. ``make`` is pickled where
    runners use other processes. Raises WamError if the checkpoint of a begun one is damaged.
    """
    places = []
    with console.progress(title, len(names) * steps, unit) as advance:
        tell = counted(advance, dict.fromkeys(names, steps))
        for name in names:
            directory = target.directory / name
            if target.is_finished(name) and is_enough(directory):
                advance(steps, name.split("/")[0])
            else:
                # Workers may run in another directory.
                places.append(Place(name, directory.absolute(), target.work.absolute() / name))
        if not places:
            return
        with runners(len(places)) as run:
            for name in run(functools.partial(_make_part, make), places, tell):
                target.finish(name, (target.directory / name).iterdir())


def _make_part(make: Callable[[Part], None], place: Place, tell: Tell) -> str:
    name, directory, work = place

    def advance(count: int = 1, note: str = "") -> None:
        tell(name, count, note)

    # Nobody can stop what runs on a cluster: who runs the same again waits for it.
    with exclusive(work):
        directory.mkdir(parents=True, exist_ok=True)
        journal = Journal(directory / "metrics.jsonl")
        checkpoint = StateFile(work / "checkpoint.safetensors", journal)
        make(Part(name, directory, work, journal, checkpoint, checkpoint.load(), advance))
    return name


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
    runners: Runners = lambda count: nullcontext(one_by_one),
) -> dict[str, dict[str, Any]]:
    """:func:`build` ``output`` of a part per task, to which tasks may be added.

    ``make`` leaves a summary in each; returns these by task, as they lie in ``output`` too.
    """

    def make_all(target: Build) -> None:
        make_parts(target, tasks, make, title=title, steps=steps, unit=unit, runners=runners)
        summary = {task: read_json(target.directory / task / SUMMARY) for task in tasks}
        write_json(target.directory / SUMMARY, summary)

    params = {**params, "tasks": list(tasks)}
    build(output, make_all, stage=stage, params=params, inputs=inputs, free=free, growing=["tasks"])
    return read_json(output / SUMMARY)
