"""``wam run``: bring a profile up to date, independent stages side by side."""

import contextlib
import os
import signal
import subprocess

from pipeline import console
from pipeline.artifacts.layout import Layout
from pipeline.dvc_stages import chosen_stages, reproduce, run_in_order, shares, turn
from pipeline.params import Profile
from wam.errors import WamError


def run(profile: Profile, layout: Layout, jobs: int | None, stage: str | None, force: bool) -> None:
    """Reproduce the stages of the profile, see :func:`side_by_side`."""
    name = layout.root.name
    graph = chosen_stages(name, stage, has_tasks=bool(profile.tasks))
    if not profile.tasks and stage is None:
        console.note("tasks: []; stores and world models alone")
    side_by_side(name, graph, jobs, force=force)


def side_by_side(
    name: str, graph: dict[str, frozenset[str]], jobs: int | None, *, force: bool = False
) -> None:
    """Reproduce the stages of ``graph``, at most ``jobs`` at a time (None: as many as help).

    One process at a time does so under a ``name``. Threads are divided by the jobs, unless
    OMP_NUM_THREADS says how many a stage takes. Raises WamError where a stage fails, once those
    beside it have ended; what interrupts this process interrupts them too.
    """
    jobs, threads = shares(jobs)
    processes: list[subprocess.Popen[str]] = []

    def one(stage: str) -> str | None:
        title = stage.replace(f"@{name}-", " ").replace(f"@{name}", "")
        return reproduce(
            stage,
            lambda line: console.titled(title, line),
            threads=threads,
            force=force,
            processes=processes,
        )

    def stop() -> None:
        for process in processes:
            # DVC leaves the end to its stage, which saves its state.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    with turn(name, console.note):
        failed = run_in_order(graph, jobs, one, stop)
    if failed:
        raise WamError("; ".join(failed.values()))
