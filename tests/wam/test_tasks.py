from pathlib import Path

import numpy as np
import pytest

from wam import tasks
from wam.config import TASKS
from wam.errors import WamError

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"


def scene(**values: float) -> np.ndarray:
    state = np.zeros(24)
    for name, value in values.items():
        state[getattr(tasks, name)] = value
    return state


@pytest.mark.parametrize(
    ("task", "start", "now", "expected"),
    [
        ("open_drawer", {"DRAWER": 0.0}, {"DRAWER": 0.12}, False),
        ("open_drawer", {"DRAWER": 0.0}, {"DRAWER": 0.1201}, True),
        ("close_drawer", {"DRAWER": 0.2}, {"DRAWER": 0.0799}, True),
        ("close_drawer", {"DRAWER": 0.1}, {"DRAWER": 0.0}, False),
        ("move_slider_left", {"SLIDER": 0.1}, {"SLIDER": 0.251}, True),
        ("move_slider_left", {"SLIDER": 0.1}, {"SLIDER": 0.249}, False),
        ("move_slider_right", {"SLIDER": 0.28}, {"SLIDER": 0.12}, True),
        ("move_slider_right", {"SLIDER": 0.0}, {"SLIDER": 0.28}, False),
        ("turn_on_lightbulb", {}, {"LIGHTBULB": 0.9999}, True),
        ("turn_on_lightbulb", {"LIGHTBULB": 1.0}, {"LIGHTBULB": 1.0}, False),
        ("turn_off_lightbulb", {"LIGHTBULB": 1.0}, {}, True),
        ("turn_on_led", {}, {"LED": 1.0}, True),
        ("turn_on_led", {}, {"LIGHTBULB": 1.0}, False),
        ("turn_off_led", {"LED": 1.0}, {"LED": 1.0}, False),
    ],
)
def test_thresholds_are_strict_and_relative(
    task: str, start: dict[str, float], now: dict[str, float], expected: bool
) -> None:
    assert tasks.achieved(task, scene(**start), scene(**now)) == expected


def test_achieved_broadcasts_over_leading_axes() -> None:
    start = np.stack([scene(LED=0.0), scene(LED=1.0)])
    now = np.stack([scene(LED=1.0)] * 5)[:, None]
    result = tasks.achieved("turn_on_led", start, now)
    assert result.dtype == bool
    np.testing.assert_array_equal(result, np.tile([True, False], (5, 1)))


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("open_drawer", {"DRAWER": 0.1}, True),
        ("open_drawer", {"DRAWER": 0.11}, False),
        ("close_drawer", {"DRAWER": 0.11}, False),
        ("move_slider_left", {"SLIDER": 0.13}, True),
        ("move_slider_right", {"SLIDER": 0.13}, False),
        ("turn_on_lightbulb", {"SWITCH": 0.03}, True),
        ("turn_on_lightbulb", {"SWITCH": 0.05}, False),
        ("turn_off_lightbulb", {"SWITCH": 0.05, "LIGHTBULB": 1.0}, True),
        ("turn_off_lightbulb", {"SWITCH": 0.03, "LIGHTBULB": 1.0}, False),
        ("turn_on_led", {"LED": 0.0}, True),
        ("turn_off_led", {"LED": 0.0}, False),
    ],
)
def test_preconditions(task: str, values: dict[str, float], expected: bool) -> None:
    assert tasks.startable(task, scene(**values)) == expected


def test_every_task_has_a_rule_and_others_are_refused() -> None:
    assert tuple(tasks.RULES) == TASKS
    with pytest.raises(WamError, match="'fly': unknown; known: open_drawer"):
        tasks.achieved("fly", np.zeros(24), np.zeros(24))


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_the_official_oracle(task: str) -> None:
    import json

    path = GOLDEN / f"task_D_{task}.npz"
    if not path.exists():
        pytest.skip("golden traces of the official simulator are not here")
    with np.load(path) as trace:
        start, states = trace["scene_obs_0"], trace["scene_obs"]
        detected = json.loads(str(trace["tasks_detected"]))
    assert tasks.startable(task, start)
    for name in TASKS:
        expected = [name in step for step in detected]
        np.testing.assert_array_equal(tasks.achieved(name, start, states), expected)
