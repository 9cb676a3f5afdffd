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
_AGAIN_S = 0.01
_raised: list[int] = []
"""The signals that were raised as :class:`Interrupted`, in order."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end by the signal ``signum``; what has to be saved is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Signal handler of a program that is to end: raises :class:`Interrupted` at once.

    It may come at any point of any library, whose half-made objects complain in vain afterwards.
    Python drops what a finaliser raises: then the signal comes again until it is heard.
    """
    sys.unraisablehook = _after_unraisable
    warnings.simplefilter("ignore")
    _raised.append(signum)
    raise Interrupted(signum)


def _after_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    if isinstance(unraisable.exc_value, Interrupted):
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN_S, signal.pthread_kill, (main, unraisable.exc_value.signum))
        again.daemon = True
        again.start()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """A block that fails after a signal was raised in it fails by that signal: Interrupted.

    Compiled libraries (safetensors while it makes a tensor) drop what is raised in them and raise
    an error of their own, which would speak of a damaged file.
    """
    before = len(_raised)
    try:
        yield
    except Exception as error:
        if len(_raised) > before:
            raise Interrupted(_raised[-1]) from error
        raise


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
            interrupt(signum, frame)
        seen.append(signum)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield lambda: bool(seen)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if seen:
        raise Interrupted(seen[0])
