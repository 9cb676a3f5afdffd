"""Ctrl-C and SIGTERM wait for the end of a step, once."""

import os
import signal
import threading

import pytest

from wam.reliability.interruption import SIGNALS, Interrupted, deferred


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
