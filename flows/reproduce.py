"""The outer flow: Prefect decides when, DVC decides what is stale.

One task per DVC stage, each ``dvc --wait-for-lock repro --single-item STAGE``, independent ones
side by side. Nothing runs beside DVC, so a deployment run leaves the same ``dvc.lock`` as ``dvc
repro``.
"""

import contextlib
import logging
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import httpx
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture, wait
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import publish
from flows.parent import for_subflows
from pipeline import dvc_stages
from pipeline.artifacts.layout import Layout
from pipeline.cores import available_cores
from pipeline.params import load_profile, profile_names
from pipeline.params.study import load_study, run_stages
from pipeline.room import Room, stage_bytes, study_bytes
from wam.config import VARIANTS
from wam.errors import WamError

_JOBS, _THREADS = dvc_stages.shares()
_STUDY_JOBS, _STUDY_THREADS = dvc_stages.shares(most=available_cores())
_ROOM = Room()
_PROCESSES: list[subprocess.Popen[str]] = []
"""Of all stages that began in this process."""
_LEVELS = {"! ": logging.WARNING, "error ": logging.ERROR}
"""By how a line of our own begins."""
if TYPE_CHECKING:
    Profile = str
    Stage = str
    Variant = str
else:
    # Choices in the form of a run, and what is refused before one begins.
    Profile = Literal[tuple(profile_names())]
    Stage = Literal[tuple(dvc_stages.stage_names())]
    Variant = Literal[VARIANTS]


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def reproduce_stage(
    stage: str, memory: Callable[[str], int], threads: int | None, force: bool = False
) -> State[Any] | None:
    """Bring one DVC stage up to date, streaming its output to the run's log; ``memory`` tells how
    many bytes it takes, now that what it reads is there."""
    try:
        with _ROOM.of(memory(stage), _logged):
            failure = dvc_stages.reproduce(
                stage,
                _logged,
                threads=threads,
                force=force,
                processes=_PROCESSES,
                environment=for_subflows(),
            )
    except WamError as error:
        failure = f"stage {stage}: {error}"
    if failure:
        return Failed(message=failure)
    try:
        publish(stage)
    except (PrefectException, httpx.HTTPError) as error:
        # The stage is done: what is behind it need not know that nobody could be shown.
        get_run_logger().warning("no artifacts in Prefect of %s (%s)", stage, error)
    return None


def _logged(line: str) -> None:
    """A line of a stage's output in the run's log, at the level that it speaks of."""
    level = next((level for word, level in _LEVELS.items() if line.startswith(word)), logging.INFO)
    get_run_logger().log(level, line)


@flow(
    name="reproduce",
    flow_run_name="{profile}",
    persist_result=False,
    task_runner=ThreadPoolTaskRunner(max_workers=_JOBS),  # type: ignore[arg-type]
)
def reproduce(
    profile: Profile = "demo",
    stage: Stage | None = None,
    variant: Variant | None = None,
    force: bool = False,
) -> State[Any] | None:
    """Bring a profile up to date, or one stage of it.

    Args:
        profile: top-level key of ``params.yaml``; after a new one ``make server`` knows it.
        stage: one stage of ``dvc.yaml``; all if left out.
        variant: of that stage alone; all if left out.
        force: run stages even where nothing changed.
    """
    try:
        settings = load_profile(profile)
        if variant is not None and stage is None:
            raise WamError("variant: needs a stage")
        only = f"{stage}@{profile}-{variant}" if variant else stage
        graph = dvc_stages.chosen_stages(profile, only, has_tasks=bool(settings.tasks))
    except WamError as error:
        return Failed(message=str(error))
    memory = partial(stage_bytes, profile=settings, layout=Layout.of(profile))
    return _in_order([profile], graph, memory, _THREADS, force=force)


@flow(
    name="study",
    persist_result=False,
    task_runner=ThreadPoolTaskRunner(max_workers=_STUDY_JOBS),  # type: ignore[arg-type]
)
def study(force: bool = False) -> State[Any] | None:
    """Bring the study of ``params.yaml`` up to date, runs side by side.

    Args:
        force: run stages even where nothing changed.
    """
    try:
        chosen = load_study()
        memory = study_bytes(chosen)
    except WamError as error:
        return Failed(message=str(error))
    graph = dvc_stages.study_graph(chosen.base, run_stages(chosen))
    names = ["study", chosen.base]
    return _in_order(names, graph, memory, _STUDY_THREADS, force=force)


def _in_order(
    names: Sequence[str],
    graph: dict[str, frozenset[str]],
    memory: Callable[[str], int],
    threads: int | None,
    *,
    force: bool,
) -> State[Any] | None:
    """A task per stage of ``graph``, each behind those that it needs; what failed, or None.

    What cancels this run interrupts them.
    """
    with dvc_stages.turn(names, get_run_logger().info), _interrupted_together(), _ROOM.open():
        runs: dict[str, PrefectFuture[Any]] = {}
        for stage, needed in graph.items():
            before = [runs[other] for other in needed]
            runs[stage] = reproduce_stage.submit(
                stage=stage,
                memory=memory,
                threads=threads,
                force=force,
                return_state=False,
                wait_for=before,
            )
        wait(list(runs.values()))
        states = [run.state for run in runs.values()]
        if all(state.is_completed() for state in states):
            return None
        # Those behind a failure never began, and have nothing to say of their own.
        told = [state.message for state in states if state.is_failed() or state.is_crashed()]
        return Failed(message="; ".join(filter(None, told)))


@contextlib.contextmanager
def _interrupted_together() -> Iterator[None]:
    """What ends the block before its time ends the stages too, which save their state."""
    try:
        yield
    except BaseException:
        dvc_stages.interrupt(_PROCESSES)
        raise
