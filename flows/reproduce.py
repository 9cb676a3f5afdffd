"""The outer flow: Prefect decides when, DVC decides what is stale.

One task per DVC stage, each ``dvc --wait-for-lock repro --single-item STAGE``, independent ones
side by side. Nothing runs beside DVC, so a deployment run leaves the same ``dvc.lock`` as ``dvc
repro``.
"""

from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline import dvc_stages
from pipeline.artifacts.layout import Layout
from pipeline.params import load_profile, profile_names
from wam.config import VARIANTS
from wam.errors import WamError

_JOBS, _THREADS = dvc_stages.shares()
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
def reproduce_stage(stage: str, threads: int | None, force: bool = False) -> State[Any] | None:
    """Bring one DVC stage up to date, streaming its output to the run's log."""
    failure = dvc_stages.reproduce(stage, get_run_logger().info, threads=threads, force=force)
    return Failed(message=failure) if failure else None


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
        tasks = load_profile(profile).tasks
        if variant is not None and stage is None:
            raise WamError("variant: needs a stage")
        only = f"{stage}@{profile}-{variant}" if variant else stage
        graph = dvc_stages.chosen_stages(profile, only, has_tasks=bool(tasks))
    except WamError as error:
        return Failed(message=str(error))
    with dvc_stages.turn(profile, get_run_logger().info):
        runs: dict[str, PrefectFuture[Any]] = {}
        for name, needed in graph.items():
            before = [runs[other] for other in needed]
            runs[name] = reproduce_stage.submit(
                stage=name, threads=_THREADS, force=force, return_state=False, wait_for=before
            )
        wait(list(runs.values()))
        states = [run.state for run in runs.values()]
        if not all(state.is_completed() for state in states):
            # Those behind a failure never began, and have nothing to say of their own.
            told = [state.message for state in states if state.is_failed() or state.is_crashed()]
            return Failed(message="; ".join(filter(None, told)))
    table = Layout.of(profile).results / "table.md"
    if stage is None and table.is_file():
        create_markdown_artifact(
            key=f"results-{profile.replace('_', '-')}", markdown=table.read_text()
        )
    return None
