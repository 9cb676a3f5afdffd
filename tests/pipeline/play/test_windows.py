"""Annotated windows from known executions."""

import numpy as np

from pipeline.play.windows import MAX_FRAMES, SENTENCES, Window, cut_windows, select_windows
from wam.config import TASKS
from wam.envs.play.execution import Execution
from wam.tasks import BUTTON, DRAWER, LED


def drawer_opens(frames: int = 100, start: int = 40, stop: int = 60) -> np.ndarray:
    scene = np.zeros((frames, 24))
    scene[:, DRAWER] = np.interp(np.arange(frames), [start, stop], [0.0, 0.2])
    return scene


def execution(**changes: int | str) -> Execution:
    values = {
        "task": "open_drawer",
        "free": 10,
        "approach": 20,
        "success": 53,
        "stop": 56,
    }
    return Execution(**{**values, **changes})  # type: ignore[arg-type]


def test_windows_start_around_the_approach() -> None:
    scene = drawer_opens()
    firsts = set()
    for seed in range(50):
        first, *later = cut_windows([execution()], scene, np.random.default_rng(seed))
        assert 12 <= first.start <= 20
        assert 26 <= later[0].start < later[1].start < 42
        assert first.stop == later[0].stop == later[1].stop == 56
        assert [window.later for window in (first, *later)] == [False, True, True]
        firsts.add(first.start)
    assert len(firsts) > 5


def test_window_never_starts_before_the_task_was_free() -> None:
    for seed in range(20):
        windows = cut_windows([execution(free=18)], drawer_opens(), np.random.default_rng(seed))
        assert windows[0].start >= 18


def test_long_executions_are_cut() -> None:
    scene = drawer_opens(200, 120, 140)
    long = execution(success=133, stop=136)
    windows = cut_windows([long], scene, np.random.default_rng(0))
    assert all(window.stop - window.start <= MAX_FRAMES for window in windows)


def test_a_pressed_button_is_no_start() -> None:
    scene = np.zeros((60, 24))
    scene[:23, BUTTON] = 0.015
    scene[40:, LED] = 1.0
    press = execution(task="turn_on_led", free=18, approach=20, success=40, stop=42)
    windows = cut_windows([press], scene, np.random.default_rng(0))
    assert windows[0].start == 23


def test_selection_spreads_and_fills_up() -> None:
    first = [Window("open_drawer", 10 * i, 10 * i + 9) for i in range(10)]
    later = [Window("open_drawer", 10 * i + 3, 10 * i + 9, later=True) for i in range(10)]
    few = select_windows([*first, *later], 4)
    assert [window.start for window in few] == [0, 30, 60, 90]
    many = select_windows([*first, *later], 12)
    assert sum(window.later for window in many) == 2
    assert [window.start for window in many] == sorted(window.start for window in many)
    assert select_windows([], 5) == []


def test_every_task_has_sentences() -> None:
    assert set(SENTENCES) == set(TASKS)
