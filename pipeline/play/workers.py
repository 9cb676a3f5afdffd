"""Episodes recorded in parallel, each in an environment of its own."""

import contextlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from pipeline import console
from pipeline.play.episode import EpisodeJob, record_episode
from wam.errors import WamError
from wam.reliability.spawn import end_with_parent, shielded

_POLL_S = 0.5


def record_all(jobs: Sequence[EpisodeJob], workers: int) -> None:
    """Record ``jobs`` on up to ``workers`` processes, with a progress bar over their frames.

    Raises WamError if a worker dies; the episodes that are complete stay.
    """
    if not jobs:
        return
    with console.progress("collect", sum(job.frames for job in jobs), "frames") as advance:
        if min(workers, len(jobs)) == 1:
            for job in jobs:
                record_episode(job, advance)
        else:
            _record_in_pool(jobs, min(workers, len(jobs)), advance)


def _record_in_pool(jobs: Sequence[EpisodeJob], workers: int, advance: Callable[..., None]) -> None:
    # pybullet keeps global state: fork would share it.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    shown = 0
    watched, alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(counter, watched))
    try:
        with shielded():
            pending: set[Future[None]] = {pool.submit(_record, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, timeout=_POLL_S)
            count = counter.value
            advance(count - shown)
            shown = count
            for future in finished:
                future.result()
    except BrokenProcessPool:
        with contextlib.suppress(OSError):  # its own thread may just have closed what this uses
            pool.shutdown()
        raise WamError(
            "collect: a worker process died (out of memory?); run again to go on with the missing "
            "episodes, with a smaller env.workers if it happens again"
        ) from None
    except BaseException:
        alive.close()  # episodes that are not complete are recorded again anyway
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_counter: Any = None


def _start(counter: Any, watched: Connection) -> None:
    global _counter
    end_with_parent(watched)
    _counter = counter


def _record(job: EpisodeJob) -> None:
    def count() -> None:
        with _counter.get_lock():
            _counter.value += 1

    record_episode(job, count)
