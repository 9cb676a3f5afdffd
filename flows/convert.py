"""Prefect flow of the stage ``convert``: one task per shard, mapped over Dask.

``python -m flows.convert --profile NAME`` is the command of the DVC stage. It uses the server at
``PREFECT_API_URL`` where that is set, and a temporary one otherwise. DVC is the only cache: nothing
is cached or persisted here. ``wam convert`` does the same work without Prefect, and so does this
command where Prefect's server does not answer: a conversion needs no history.
"""

import argparse
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any
from uuid import UUID

import httpx
from prefect import flow, task
from prefect.artifacts import (
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, refresh_global_settings_context
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.flow_engine import run_flow
from prefect.logging.configuration import setup_logging
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed, State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect_dask import DaskTaskRunner
from prefect_dask.task_runners import PrefectDaskFuture

from flows.artifacts import key, publish_store
from flows.parent import subflow_run
from pipeline import console, workers
from pipeline.artifacts.layout import Layout
from pipeline.exit_codes import exit_on_error
from pipeline.params import Profile, load_profile
from pipeline.stages import convert
from pipeline.store.shard_job import ShardJob, ShardRecord
from wam.errors import WamError
from wam.reliability.interruption import Interrupted, interrupt
from wam.reliability.spawn import blocked

BAD_INPUT = "BadInput"
"""Name of the failed state that a WamError leaves: a message for people, not a traceback."""

HEALTH_TIMEOUT_S = 3.0


_terminated: list[int] = []
"""Signals that came while the flow ran. A list: Prefect sends the flow's globals to the workers."""


class ServerError(Exception):
    """Prefect's server does not do what a flow needs."""


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
    logging.raiseExceptions = False  # in the worker, see _quiet
    try:
        return write(job)
    except WamError as error:
        return Failed(name=BAD_INPUT, message=str(error))


@flow(name="convert", persist_result=False, validate_parameters=False)
def convert_flow(profile: str) -> State[Any] | None:
    """Convert the indexed frames of a profile into its Zarr store."""
    layout = Layout.of(profile)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # Prefect's flow engine puts the earlier one back
    try:
        convert.run(load_profile(profile), layout, run_jobs=partial(_run_tasks, profile))
    except WamError as error:
        return Failed(name=BAD_INPUT, message=str(error))
    publish_store(profile)
    return None


def task_runner(address: str | None) -> TaskRunner[Any]:
    """The Dask cluster whose scheduler is at ``address``; a thread where there is none."""
    if address is None:
        return ThreadPoolTaskRunner(max_workers=1)
    return DaskTaskRunner(address=address)


def _run_tasks(
    profile: str, function: Callable[[ShardJob], ShardRecord], jobs: Sequence[ShardJob]
) -> Iterator[ShardRecord]:
    """Run every job as a task; the first failure ends the flow."""
    progress = create_progress_artifact(
        0.0, key=key(profile, "convert"), description="shards written"
    )
    assert isinstance(progress, UUID)
    for number, state in enumerate(_states(function, jobs), start=1):
        if state.name == BAD_INPUT:
            raise WamError(state.message)
        yield state.result()
        update_progress_artifact(progress, 100.0 * number / len(jobs))


def _states(
    function: Callable[[ShardJob], ShardRecord], jobs: Sequence[ShardJob]
) -> Iterator[State[Any]]:
    """The final states of all tasks, as they finish."""

    def arguments(job: ShardJob) -> tuple[Any, ...]:
        return function, job, f"{job.split}-{job.index}"

    def submit(job: ShardJob) -> Any:
        future = convert_shard.submit(*arguments(job))
        assert isinstance(future, PrefectDaskFuture)
        return future.wrapped_future

    context = FlowRunContext.get()
    assert context is not None
    if isinstance(context.task_runner, DaskTaskRunner):
        yield from workers.gather(context.task_runner.client, submit, jobs)
    else:
        yield from (convert_shard(*arguments(job), return_state=True) for job in jobs)


def main() -> None:
    """Command line: run the flow for one profile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True, help="a top-level key of params.yaml")
    profile = parser.parse_args().profile
    exit_on_error(lambda: _run(profile))


def _run(name: str) -> None:
    profile = load_profile(name)
    _quiet()
    try:
        _ensure_server()
        _run_flow(name, profile)
    except ServerError as error:
        console.warn(f"Prefect: {error}; converting without it, which leaves no run history")
        convert.run(profile, Layout.of(name))


def _run_flow(name: str, profile: Profile) -> None:
    with workers.scheduler(profile.convert) as address:
        run = convert_flow.with_options(task_runner=task_runner(address))
        parameters = {"profile": name}
        try:
            state: Any = run_flow(
                run,
                flow_run=subflow_run(run, parameters),
                parameters=parameters,
                return_type="state",
            )
            if state.name == BAD_INPUT:
                raise WamError(state.message)
            state.result()
        except (httpx.HTTPError, ObjectNotFound) as error:
            if _terminated:  # and the server with us
                raise Interrupted(signal.SIGTERM) from None
            raise ServerError(f"lost the server at {PREFECT_API_URL.value()} ({error})") from None
        except TerminationSignal:
            raise Interrupted(signal.SIGTERM) from None


def _terminate(signum: int, frame: FrameType | None) -> None:
    _terminated.append(signum)
    interrupt(signum, frame)


def _quiet() -> None:
    """Have Prefect log to its server only: its console shows a page for every failure.

    What matters to the user arrives as an exception.
    """
    # The environment is that of Dask workers, too.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    refresh_global_settings_context()
    setup_logging()
    logging.raiseExceptions = False  # where the server has gone, log records have nowhere to go


def _ensure_server() -> None:
    """Point this process and its Dask workers at one server, a temporary one unless one is set.

    Left to themselves, all workers would start servers of their own.
    """
    url = PREFECT_API_URL.value()
    if url is not None:
        _check(url)
        return
    # Imported here: the whole server, for which all Dask workers would need three seconds more.
    from prefect.server.api.server import SubprocessASGIServer

    class Server(SubprocessASGIServer):
        """Outlives a Ctrl-C long enough to learn of it."""

        def _run_uvicorn_command(self) -> Any:
            with blocked(signal.SIGINT):
                return super()._run_uvicorn_command()

    server = Server()
    try:
        server.start()  # stops when this process exits, after the last log records are sent
    except (RuntimeError, OSError, ValueError, ImportError, httpx.HTTPError) as error:
        server.stop()
        raise ServerError(f"no temporary server starts ({error})") from None
    os.environ["PREFECT_API_URL"] = server.api_url
    refresh_global_settings_context()


def _check(url: str) -> None:
    """Raises ServerError if the server does not answer, or not as one that we can use."""
    options: Any = {"timeout": HEALTH_TIMEOUT_S}
    try:
        with get_client(httpx_settings=options, sync_client=True) as client:
            problem = client.api_healthcheck()
    except Exception as error:  # noqa: BLE001 (a proxy or address that no library understands, ...)
        problem = error
    if problem is not None:
        raise ServerError(f"no server answers at PREFECT_API_URL={url} ({problem!r})")


if __name__ == "__main__":
    main()
