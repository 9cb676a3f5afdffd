"""Success and pre-condition of the eight tasks on CALVIN's scene state alone (docs/calvin.md 4.1).

Success is a comparison of two states without history; all inequalities are strict.
"""

from dataclasses import dataclass

import numpy as np

from wam.config import TASKS
from wam.errors import WamError

SLIDER, DRAWER, BUTTON, SWITCH, LIGHTBULB, LED = range(6)
"""Places in ``scene_obs`` [24]; the rest are the three blocks."""

FIXTURES = {
    "slider": SLIDER,
    "drawer": DRAWER,
    "switch": SWITCH,
    "lightbulb": LIGHTBULB,
    "led": LED,
}
"""What the tasks change and keeps its state, by name."""

SWITCH_THRESHOLD = 0.044
"""Joint value (m) above which the switch turns the light bulb on."""


@dataclass(frozen=True)
class Move:
    """Move a joint by more than ``distance`` (m, signed)."""

    index: int
    distance: float
    start_limit: float
    """The joint's farthest start value (m) from which the task can still be done."""


@dataclass(frozen=True)
class Toggle:
    """Turn a light to ``on``."""

    index: int
    on: bool


Rule = Move | Toggle

RULES: dict[str, Rule] = {
    "open_drawer": Move(DRAWER, 0.12, 0.10),
    "close_drawer": Move(DRAWER, -0.12, 0.12),
    "move_slider_left": Move(SLIDER, 0.15, 0.13),
    "move_slider_right": Move(SLIDER, -0.15, 0.15),
    "turn_on_lightbulb": Toggle(LIGHTBULB, True),
    "turn_off_lightbulb": Toggle(LIGHTBULB, False),
    "turn_on_led": Toggle(LED, True),
    "turn_off_led": Toggle(LED, False),
}


def achieved(task: str, scene_obs_start: np.ndarray, scene_obs: np.ndarray) -> np.ndarray:
    """Whether ``task`` is accomplished in ``scene_obs`` [..., 24] relative to ``scene_obs_start``.

    Both broadcast against each other; the result is bool [...]. Light states are read with a
    threshold of 0.5. Raises WamError for an unknown task.
    """
    rule = _rule(task)
    start = np.asarray(scene_obs_start)[..., rule.index]
    now = np.asarray(scene_obs)[..., rule.index]
    if isinstance(rule, Move):
        return now - start > rule.distance if rule.distance > 0 else now - start < rule.distance
    return ((now > 0.5) == rule.on) & ((start > 0.5) != rule.on)


def startable(task: str, scene_obs: np.ndarray) -> np.ndarray:
    """Whether ``task`` can be done from ``scene_obs`` [..., 24]; bool [...].

    Raises WamError for an unknown task.
    """
    rule = _rule(task)
    scene = np.asarray(scene_obs)
    value = scene[..., rule.index]
    if isinstance(rule, Move):
        return value <= rule.start_limit if rule.distance > 0 else value >= rule.start_limit
    start = (value > 0.5) != rule.on
    if rule.index != LIGHTBULB:
        return start
    switch = scene[..., SWITCH]
    return start & (switch < SWITCH_THRESHOLD if rule.on else switch > SWITCH_THRESHOLD)


def changed(task: str, scene_obs_start: np.ndarray, scene_obs: np.ndarray) -> np.ndarray:
    """Whether the variable that ``task`` is about differs between the two states; bool [...].

    Joints count as unchanged within 1 cm, the play of a drawer that is only brushed.
    """
    rule = _rule(task)
    difference = (
        np.asarray(scene_obs)[..., rule.index] - np.asarray(scene_obs_start)[..., rule.index]
    )
    return np.abs(difference) > (0.01 if isinstance(rule, Move) else 0.5)


def _rule(task: str) -> Rule:
    if task not in RULES:
        raise WamError(f"task '{task}': unknown; known: {', '.join(TASKS)}")
    return RULES[task]
