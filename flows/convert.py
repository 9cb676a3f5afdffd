"""Prefect flow of the stage ``convert``: one task per shard, mapped over Dask.

``python -m flows.convert --profile NAME`` is the command of the DVC stage. It uses the server at
``PREFECT_API_URL`` where that is set, and a temporary one otherwise. DVC is the only cache: nothing
is cached or persisted here. ``wam convert`` does the same work without Prefect.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, refresh_global_settings_context
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed, State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect_dask import DaskTaskRunner

from pipeline import artifacts, convert, workers
from pipeline.cli import exit_on_error
from pipeline.layout import Layout
from pipeline.params import Convert, load_profile
from pipeline.shard_job import ShardJob, ShardRecord
from wam.errors import WamError

BAD_INPUT = "BadInput"
"""Name of the failed state that a WamError leaves: a message for people, not a traceback."""


def _is_transient(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Retry what the file system or the network did, not what is wrong with our code or data."""
    try:
        state.result(raise_on_failure=True)
    except OSError:
        return True
    except Exception:  # noqa: BLE001 (whatever a task can raise)
        return False
    return False


@task(
    task_run_name="shard-{index}",
    retries=3,
    retry_delay_seconds=[1, 5, 20],
    retry_condition_fn=_is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def convert_shard(
    write: Callable[[ShardJob], ShardRecord], job: ShardJob, index: str
) -> ShardRecord | State[Any]:
    """Write one shard of every array."""
    try:
        return write(job)
    except WamError as error:
        return Failed(name=BAD_INPUT, message=str(error))


@flow(name="convert", persist_result=False, validate_parameters=False)
def convert_flow(profile: str) -> State[Any] | None:
    """Convert the indexed frames of a profile into its Zarr store."""
    layout = Layout.of(profile)
    try:
        convert.run(load_profile(profile), layout, run_jobs=_run_tasks)
    except WamError as error:
        return Failed(name=BAD_INPUT, message=str(error))
    manifest = artifacts.read_manifest(layout.store, "convert")
    create_table_artifact(
        key="store",
        table=[
            {
                "split": split,
                "frames": content["num_frames"],
                "episodes": content["num_episodes"],
                "shards": content["num_shards"],
            }
            for split, content in manifest["splits"].items()
        ],
        description=f"Store of profile `{profile}` at `{layout.store}`, "
        f"source {manifest['source_digest']}",
    )
    return None


def task_runner(settings: Convert) -> TaskRunner[Any]:
    """Dask as ``convert.workers`` and ``convert.dask_address`` say; a thread for one worker."""
    if settings.dask_address is not None:
        return DaskTaskRunner(address=settings.dask_address)
    if settings.workers == 1:
        return ThreadPoolTaskRunner(max_workers=1)
    return DaskTaskRunner(cluster_kwargs=workers.local_cluster(settings.workers))


def _run_tasks(
    function: Callable[[ShardJob], ShardRecord], jobs: Sequence[ShardJob]
) -> Iterator[ShardRecord]:
    """Run every job as a task; the first failure ends the flow."""
    progress = create_progress_artifact(0.0, key="convert", description="shards written")
    assert isinstance(progress, UUID)
    context = FlowRunContext.get()
    assert context is not None
    client = context.task_runner.client if isinstance(context.task_runner, DaskTaskRunner) else None
    waiting = iter(jobs)
    running: list[PrefectFuture[Any]] = []
    for number in range(1, len(jobs) + 1):
        room = max(workers.jobs_ahead(client) - len(running), 0)
        running += [
            convert_shard.submit(function, job, f"{job.split}-{job.index}")
            for job in itertools.islice(waiting, room)
        ]
        future = next(as_completed(running))
        running.remove(future)
        future.wait()
        if future.state.name == BAD_INPUT:
            raise WamError(future.state.message)
        record = future.result()
        assert isinstance(record, ShardRecord)
        yield record
        update_progress_artifact(progress, 100.0 * number / len(jobs))


def main() -> None:
    """Command line: run the flow for one profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True, help="a top-level key of params.yaml")
    profile = parser.parse_args().profile
    exit_on_error(lambda: _run(profile))


def _run(profile: str) -> None:
    settings = load_profile(profile).convert
    _ensure_server()
    run = convert_flow.with_options(task_runner=task_runner(settings))
    state = run(profile, return_state=True)
    if state.name == BAD_INPUT:
        raise WamError(state.message)
    state.result()


def _ensure_server() -> None:
    """Point this process and its Dask workers at one server, a temporary one unless one is set.

    Left to themselves, all workers would start servers of their own.
    """
    if PREFECT_API_URL.value() is None:
        # Imported here: the whole server, for which all Dask workers would need three seconds more.
        from prefect.server.api.server import SubprocessASGIServer

        server = SubprocessASGIServer()
        server.start()  # stops when this process exits, after the last log records are sent
        os.environ["PREFECT_API_URL"] = server.api_url
        refresh_global_settings_context()


if __name__ == "__main__":
    main()
