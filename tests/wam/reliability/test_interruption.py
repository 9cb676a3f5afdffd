"""Ctrl-C and SIGTERM wait for the end of a step, once."""

import os
import signal
import sys
import threading
import time
import warnings

import pytest

from wam.reliability.interruption import SIGNALS, Interrupted, deferred, heard, interrupt


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_noted_and_raised_behind_the_block(signum: int) -> None:
    before = signal.getsignal(signum)
    steps = 0
    with pytest.raises(Interrupted) as raised, deferred() as asked:
        while not asked():
            steps += 1
            if steps == 3:
                os.kill(os.getpid(), signum)
    assert steps == 3
    assert raised.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_second_signal_is_not_waited_for() -> None:
    with pytest.raises(Interrupted), deferred() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was ignored")


def test_nobody_asks_outside_of_the_main_thread() -> None:
    found: list[bool] = []

    def work() -> None:
        with deferred() as asked:
            found.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_in_a_finaliser_is_heard_behind_it(
    signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    heard: list[str] = []

    class Half:
        def __del__(self) -> None:
            os.kill(os.getpid(), signum)
            heard.append("not at once")

    before = signal.signal(signum, interrupt)
    try:
        with warnings.catch_warnings(), pytest.raises(Interrupted) as raised:
            half = Half()
            del half  # Python drops what is raised in here
            time.sleep(30)
    finally:
        signal.signal(signum, before)
    assert raised.value.signum == signum
    assert heard == []


@pytest.mark.parametrize("signum", SIGNALS)
def test_an_error_that_a_library_made_of_a_signal_is_that_signal(
    signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signum, interrupt)
    try:
        with warnings.catch_warnings(), pytest.raises(Interrupted) as raised, heard():
            try:
                os.kill(os.getpid(), signum)
                time.sleep(30)
            except Interrupted:
                # As compiled code does: not a word of what was raised in it.
                raise ValueError("could not determine the shape") from None
    finally:
        signal.signal(signum, before)
    assert raised.value.signum == signum
    with pytest.raises(ValueError, match="of its own"), heard():
        raise ValueError("of its own")
