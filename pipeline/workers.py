"""Running shard jobs: in this process, on a local Dask cluster, or on an existing one."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipeline.params import Convert
from pipeline.shard_job import ShardJob, ShardRecord, write_shard
from wam.errors import WamError

MapJobs = Callable[[Sequence[ShardJob]], Iterable[ShardRecord]]
"""Does all jobs and yields their records in any order; raises the first WamError of a job."""


@contextlib.contextmanager
def job_runner(settings: Convert) -> Iterator[MapJobs]:
    """Yield the runner that ``convert.workers`` and ``convert.dask_address`` ask for.

    Raises WamError if the scheduler does not answer.
    """
    if settings.workers == 1 and settings.dask_address is None:
        yield lambda jobs: map(write_shard, jobs)
        return
    from distributed import Client, LocalCluster  # not installed everywhere

    with contextlib.ExitStack() as stack:
        if settings.dask_address is None:
            target = stack.enter_context(LocalCluster(**local_cluster(settings.workers)))
        else:
            target = settings.dask_address
        try:
            client = stack.enter_context(Client(target))
        except (OSError, ValueError) as error:
            raise WamError(
                f"convert.dask_address: no Dask scheduler answers at {target} ({error}); start one "
                "with 'dask scheduler', or set it to null for a local cluster"
            ) from None
        yield lambda jobs: _map_dask(client, jobs)


def local_cluster(workers: int) -> dict[str, Any]:
    """Arguments of ``distributed.LocalCluster``: a process per worker, dashboard on a free port."""
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }


def _map_dask(client: Any, jobs: Sequence[ShardJob]) -> Iterator[ShardRecord]:
    from distributed import KilledWorker, as_completed

    futures = client.map(_attempt, jobs, pure=False)
    try:
        for future in as_completed(futures):
            result = future.result()
            if isinstance(result, WamError):
                raise result
            yield result
            future.release()
    except KilledWorker as error:
        raise WamError(
            f"convert: Dask workers died repeatedly ({error}); lower convert.workers or give them "
            "more memory, then run again: finished shards are kept"
        ) from None
    finally:
        client.cancel(futures)


def _attempt(job: ShardJob) -> ShardRecord | WamError:
    """A WamError travels as a value: raised in a worker it would be logged with a traceback."""
    try:
        return write_shard(job)
    except WamError as error:
        return error
