"""Ctrl-C and SIGTERM: a training saves its state after the step at hand, then ends.

Preemption, ``docker stop`` and Slurm send SIGTERM and kill some seconds later.
"""

import contextlib
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by the signal ``signum``; what has to be saved is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Signal handler of a program that is to end: raises :class:`Interrupted` at once.

    It may come at any point of any library, whose half-made objects complain in vain afterwards.
    """
    sys.unraisablehook = lambda _: None
    warnings.simplefilter("ignore")
    raise Interrupted(signum)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield ``asked()``: whether a signal came since the block began, which it does not interrupt.

    The block is to look after every step, save its state and return; Interrupted is raised behind
    it. A second signal is not waited for. Outside of the main thread, where Python delivers no
    signals, nobody ever asks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if seen:
            raise Interrupted(signum)
        seen.append(signum)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if seen:
        raise Interrupted(seen[0])
