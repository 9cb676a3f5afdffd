"""Running independent jobs: in this process, on a local Dask cluster, or on an existing one."""

import contextlib
import functools
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipeline import console
from pipeline.artifacts.parts import Tell
from pipeline.cores import available_cores
from pipeline.params import Convert, Parallel
from wam.errors import WamError
from wam.reliability.interruption import SIGNALS
from wam.reliability.spawn import blocked

Job = TypeVar("Job")
Result = TypeVar("Result")

JobRunner = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Called with a function and jobs: does them all and yields the results in any order; raises the
first WamError of a job."""
NOTICE_AFTER_S = 10.0
"""Waiting for workers is told after this time."""
NO_WORKER_S = 60.0
"""And given up after this one."""
_POLL_S = 1.0
_ANSWER_S = 30.0
"""How long a scheduler may take to answer."""

_KEPT = "run the same command again to go on: what is finished is kept"


@contextlib.contextmanager
def job_runner(settings: Convert) -> Iterator[JobRunner]:
    """Yield the runner that ``convert.workers`` and ``convert.dask_address`` ask for.

    Raises WamError if the scheduler does not answer.
    """
    with scheduler(settings) as address:
        if address is None:
            yield map
            return
        from distributed import Client

        with Client(address) as client:
            yield functools.partial(map_dask, client)


@dataclass(frozen=True)
class Crew:
    """Runs jobs that tell of their progress: here, or on the Dask cluster of ``client``."""

    client: Any = None

    @property
    def in_process(self) -> bool:
        """Whether jobs run here, one after the other."""
        return self.client is None

    def __call__(
        self, function: Callable[[Job, Tell], Result], jobs: Sequence[Job], tell: Tell
    ) -> Iterator[Result]:
        """Do all jobs and yield the results in any order; raises the first WamError of a job.

        What a job prints on a cluster is printed when it has ended: its worker may be anywhere.
        """
        if self.client is None:
            for job in jobs:
                yield function(job, tell)
            return
        topic = f"wam-{uuid.uuid4().hex}"
        self.client.subscribe_topic(topic, lambda event: tell(*event[1]))
        try:
            told = functools.partial(_telling, function, topic)
            for result, printed in map_dask(self.client, told, jobs):
                if printed:
                    console.note(printed.rstrip("\n"))
                if isinstance(result, WamError):
                    raise result
                yield result
        finally:
            self.client.unsubscribe_topic(topic)


@contextlib.contextmanager
def crew(settings: Parallel, num_jobs: int, *, on_gpu: bool, cores_each: int = 1) -> Iterator[Crew]:
    """Yield the crew that ``parallel.workers`` and ``parallel.dask_address`` ask for.

    Raises WamError if the scheduler does not answer.
    """
    workers = settings.workers or (1 if on_gpu else _cores() // cores_each)
    with scheduler(replace(settings, workers=max(1, min(workers, num_jobs)))) as address:
        if address is None:
            yield Crew()
            return
        from distributed import Client

        with Client(address) as client:
            yield Crew(client)


def _cores() -> int:
    """How many this process may compute on."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if told.isdigit() and int(told):
        return int(told)
    return available_cores()


@contextlib.contextmanager
def scheduler(settings: Convert | Parallel) -> Iterator[str | None]:
    """Yield the address of a Dask scheduler that answers; None where one process does all.

    It is that of ``dask_address``, or of a cluster of ``workers`` processes that ends with the
    block. Raises WamError if there is none.
    """
    section = type(settings).__name__.lower()
    if settings.dask_address is not None:
        _check(settings.dask_address, section)
        yield settings.dask_address
    elif settings.workers == 1:
        yield None
    else:
        assert settings.workers is not None
        with _local_cluster(settings.workers, section) as cluster:
            yield cluster.scheduler_address


def map_dask(
    client: Any, function: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[Result]:
    """Do all jobs on the cluster of ``client``; see :data:`JobRunner`."""

    def submit(job: Job) -> Any:
        key = f"{getattr(job, 'name', 'job')}-{uuid.uuid4().hex[:8]}"
        return client.submit(_attempt, function, job, pure=False, key=key)

    for result in gather(client, submit, jobs):
        if isinstance(result, WamError):
            raise result
        yield result


def _telling(
    function: Callable[[Job, Tell], Result], topic: str, job: Job
) -> tuple[Result | WamError, str]:
    """In a worker: the result, or why there is none, and what was printed."""
    from distributed import get_worker

    worker = get_worker()

    def tell(name: str, count: int, note: str) -> None:
        worker.log_event(topic, [name, count, note])

    with console.console.capture() as captured:
        result = _attempt(function, job, tell)
    return result, captured.get()


def gather(client: Any, submit: Callable[[Job], Any], jobs: Sequence[Job]) -> Iterator[Any]:
    """Yield the results of the Dask futures that ``submit`` makes of jobs, one at a time a thread.

    Raises what a job raised, and WamError if the cluster is lost: its scheduler, or all workers for
    longer than :data:`NO_WORKER_S`.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    address = client.scheduler.address
    waiting = iter(jobs)
    running: set[Any] = set()
    try:
        while True:
            try:
                # One per thread: Dask gives every job to a worker at once, and one that waits
                # behind a long job waits there while others idle. Workers may join or leave an
                # existing cluster any time.
                room = max(max(_num_threads(client), 1) - len(running), 0)
                running.update(submit(job) for job in itertools.islice(waiting, room))
                finished = _wait(client, running) if running else ()
            except (OSError, CancelledError):
                raise _lost(address) from None
            if not finished:
                return
            for future in finished:
                running.remove(future)
                try:
                    result = future.result()
                except KilledWorker as error:
                    raise WamError(
                        f"Dask workers died repeatedly ({error}); use fewer workers or give them "
                        f"more memory, then {_KEPT}"
                    ) from None
                except (CancelledError, CommClosedError):
                    raise _lost(address) from None
                yield result
    finally:
        if client.status == "running":
            client.cancel(list(running))


def _wait(client: Any, running: set[Any]) -> set[Any]:
    """Those of ``running`` that have finished, at least one."""
    from distributed import wait

    began: float | None = None
    told = False
    while True:
        try:
            with client.as_current():
                return wait(running, timeout=_POLL_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            pass
        if _num_threads(client):
            began = None
            continue
        began = began or time.monotonic()
        waited = time.monotonic() - began
        if waited >= NO_WORKER_S:
            raise WamError(
                f"no Dask worker at {client.scheduler.address} for {waited:.0f} s; start workers "
                f"with 'dask worker {client.scheduler.address}', or set dask_address to null and "
                f"workers to 1, then {_KEPT}"
            )
        if waited >= NOTICE_AFTER_S and not told:
            told = True
            console.warn(_waiting(client.scheduler.address))


def _num_threads(client: Any) -> int:
    """Of all workers. Raises OSError if the scheduler does not answer."""
    return sum(client.sync(client.scheduler.ncores, callback_timeout=_ANSWER_S).values())


def _check(address: str, section: str) -> None:
    from distributed import Client

    try:
        Client(address, set_as_default=False, timeout=NOTICE_AFTER_S).close()
    except (OSError, ValueError) as error:
        raise WamError(
            f"{section}.dask_address: no Dask scheduler answers at {address} ({error}); start one "
            "with 'dask scheduler', or set it to null for a local cluster"
        ) from None


@contextlib.contextmanager
def _local_cluster(workers: int, section: str) -> Iterator[Any]:
    """A process per worker, dashboard on a free port."""
    import dask
    from distributed import LocalCluster

    notice = threading.Timer(NOTICE_AFTER_S, console.warn, [_waiting("this machine")])
    notice.daemon = True
    notice.start()
    try:
        # No daemons, which may have no children: an evaluation has simulators in processes.
        with blocked(*SIGNALS), dask.config.set({"distributed.worker.daemon": False}):
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                # Jobs hold what they need: to pause or kill one frees nothing that is not needed.
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                death_timeout=NO_WORKER_S,
            )
    except (OSError, RuntimeError) as error:
        raise WamError(
            f"Dask workers do not start on this machine ({error}); {section}.workers is {workers}: "
            f"1 needs none, then {_KEPT}"
        ) from None
    finally:
        notice.cancel()
    with cluster:
        yield cluster


def _waiting(place: str) -> str:
    return f"waiting for Dask workers of {place} ..."


def _lost(address: str) -> WamError:
    return WamError(
        f"lost the Dask scheduler at {address}; see why it ended, start it again, then {_KEPT}"
    )


def _attempt(function: Callable[..., Result], *arguments: Any) -> Result | WamError:
    """A WamError travels as a value: raised in a worker it would be logged with a traceback."""
    try:
        return function(*arguments)
    except WamError as error:
        return error
