"""Worker processes that Ctrl-C leaves to their parent, and that end with it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait

from wam.reliability.interruption import SIGNALS, deferred


@contextlib.contextmanager
def blocked(*signals: signal.Signals) -> Iterator[None]:
    """Processes begun in the block do not see ``signals``: it is for this one to end them."""
    # It unblocks signals when it starts, which it would do with the first process.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Processes spawned in the block never see SIGINT, and SIGTERM once they are ready for it.

    A terminal sends SIGINT to all processes at once, and those that are still importing modules
    would each print a traceback; so would one whose parent is interrupted while it starts it. In
    the parent signals arrive when the block ends, in a worker at :func:`end_with_parent`.
    """
    # The mask is for the children: here another thread may be given the signal.
    with deferred(), blocked(*SIGNALS):
        yield


def end_with_parent(watched: Connection | None = None) -> None:
    """Let this worker end at SIGTERM, or when its parent ends or closes its end of ``watched``.

    A killed parent cannot stop its workers. What they are at is not waited for.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = parent_process()
    if parent is not None:
        signs = [parent.sentinel] if watched is None else [parent.sentinel, watched]
        threading.Thread(target=_end_after, args=(signs,), daemon=True).start()


def _end_after(signs: list[int | Connection]) -> None:
    wait(signs)
    os._exit(1)
