"""Episodes recorded in parallel, one environment per worker process."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.connection import wait as wait_for_connection
from typing import TYPE_CHECKING, Any

from pipeline import console
from pipeline.play_episode import EpisodeJob, Simulator, make_env, record_episode
from wam.errors import WamError

if TYPE_CHECKING:
    from wam.envs.play_table import PlayTableEnv

_POLL_S = 0.5


def record_all(jobs: Sequence[EpisodeJob], workers: int) -> None:
    """Record ``jobs`` on up to ``workers`` processes, with a progress bar over their frames.

    Raises WamError if a worker dies; the episodes that are complete stay.
    """
    if not jobs:
        return
    with console.progress("collect", sum(job.frames for job in jobs), "frames") as advance:
        if min(workers, len(jobs)) == 1:
            with closing(make_env(jobs[0].simulator)) as env:
                for job in jobs:
                    record_episode(job, env, advance)
        else:
            _record_in_pool(jobs, min(workers, len(jobs)), advance)


def _record_in_pool(jobs: Sequence[EpisodeJob], workers: int, advance: Callable[..., None]) -> None:
    # pybullet keeps global state: fork would share it.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    shown = 0
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start, initargs=(counter, jobs[0].simulator)
    )
    try:
        pending: set[Future[None]] = {pool.submit(_record, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, timeout=_POLL_S)
            count = counter.value
            advance(count - shown)
            shown = count
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise WamError(
            "collect: a worker process died (out of memory?); run again to go on with the missing "
            "episodes, with a smaller env.workers if it happens again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_env: "PlayTableEnv | None" = None
_counter: Any = None


def _start(counter: Any, simulator: Simulator) -> None:
    global _env, _counter
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _counter = counter
    _env = make_env(simulator)


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers; they notice by themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_connection([parent.sentinel])
        os._exit(1)


def _record(job: EpisodeJob) -> None:
    assert _env is not None
    record_episode(job, _env, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1
