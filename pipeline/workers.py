"""Running independent jobs: in this process, on a local Dask cluster, or on an existing one."""

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.params import Convert
from wam.errors import WamError

Job = TypeVar("Job")
Result = TypeVar("Result")

JobRunner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Called with a function and jobs: does them all and yields the results in any order; raises the
first WamError of a job."""


@contextlib.contextmanager
def job_runner(settings: Convert) -> Iterator[JobRunner]:
    """Yield the runner that ``convert.workers`` and ``convert.dask_address`` ask for.

    Raises WamError if the scheduler does not answer.
    """
    if settings.workers == 1 and settings.dask_address is None:
        yield map
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
        yield functools.partial(map_dask, client)


def local_cluster(workers: int) -> dict[str, Any]:
    """Arguments of ``distributed.LocalCluster``: a process per worker, dashboard on a free port."""
    return {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }


def jobs_ahead(client: Any) -> int:
    """How many unfinished jobs the scheduler of a Dask ``client`` should know; None: one process.

    One per thread that runs and one that waits: all of them at once would take memory that grows
    with the data. Workers may join or leave an existing cluster at any time.
    """
    return 2 * max(sum(client.nthreads().values()), 1) if client else 2


def map_dask(
    client: Any, function: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[Result]:
    """Do all jobs on the cluster of ``client``, a few at a time; see :data:`JobRunner`."""
    from distributed import KilledWorker, as_completed

    waiting = iter(jobs)
    running: set[Any] = set()
    finished = as_completed()

    def submit() -> None:
        for job in itertools.islice(waiting, max(jobs_ahead(client) - len(running), 0)):
            future = client.submit(_attempt, function, job, pure=False)
            running.add(future)
            finished.add(future)

    try:
        submit()
        for future in finished:
            result = future.result()
            running.remove(future)
            if isinstance(result, WamError):
                raise result
            submit()
            yield result
    except KilledWorker as error:
        raise WamError(
            f"Dask workers died repeatedly ({error}); lower convert.workers or give them more "
            "memory, then run again: finished shards are kept"
        ) from None
    finally:
        client.cancel(list(running))


def _attempt(function: Callable[[Job], Result], job: Job) -> Result | WamError:
    """A WamError travels as a value: raised in a worker it would be logged with a traceback."""
    try:
        return function(job)
    except WamError as error:
        return error
