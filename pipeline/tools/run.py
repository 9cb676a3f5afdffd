"""``wam run``: bring a profile up to date, independent stages side by side."""

import subprocess
from collections.abc import Callable, Collection, Sequence
from functools import partial

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import chosen_stages, interrupt, reproduce, run_in_order, shares, turn
from pipeline.params import Profile
from pipeline.room import Room, stage_bytes, waiting
from wam.errors import WamError


def run(profile: Profile, layout: Layout, jobs: int | None, stage: str | None, force: bool) -> None:
    """Reproduce the stages of the profile, see :func:`side_by_side`."""
    name = layout.root.name
    graph = chosen_stages(name, stage, has_tasks=bool(profile.tasks))
    if not profile.tasks and stage is None:
        console.note("tasks: []; stores and world models alone")
    memory = partial(stage_bytes, profile=profile, layout=layout)
    side_by_side([name], graph, shares(jobs), memory, force=force)


def side_by_side(
    names: Sequence[str],
    graph: dict[str, frozenset[str]],
    shares: tuple[int, int | None],
    memory: Callable[[str], int],
    *,
    force: bool = False,
) -> None:
    """Reproduce the stages of ``graph`` in the turn of ``names``, with so many jobs and threads, as
    many at a time as have room for the bytes that ``memory`` tells of each.

    Raises WamError where a stage fails, once those beside it have ended; what interrupts this
    process interrupts them too.
    """
    jobs, threads = shares
    processes: list[subprocess.Popen[str]] = []
    room, told = Room(), set[str]()

    def one(stage: str) -> str | None:
        title = stage.replace(f"@{names[0]}-", " ").replace(f"@{names[0]}", "")
        say = partial(console.titled, title)
        return reproduce(stage, say, threads=threads, force=force, processes=processes)

    def fits(stage: str, running: Collection[str]) -> bool:
        size = memory(stage)
        enough = room.fits(size, [memory(other) for other in running])
        if not enough and stage not in told:
            told.add(stage)
            console.note(f"{stage} {waiting(size)}")
        return enough

    with turn(names, console.note):
        failed = run_in_order(graph, jobs, one, partial(interrupt, processes), fits)
    if failed:
        raise WamError("; ".join(failed.values()))
