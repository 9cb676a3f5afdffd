"""Annotated windows of scripted play (docs/calvin.md 1.5): where a task starts and is done."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wam import tasks
from wam.envs.play.execution import Execution

MAX_FRAMES = 64
_MAX_LEAD = 8
"""Frames of play before the expert's approach that a window may take along."""
_LATER_STARTS = 2
_MIN_LATER = 6
_MIN_FRAMES = 8
_RELEASED_M = 0.005
"""Below this the button is up. A reset to a pressed button would toggle the LED at once."""

SENTENCES = {
    "open_drawer": ("open the drawer", "pull the handle of the drawer"),
    "close_drawer": ("close the drawer", "push the drawer shut"),
    "move_slider_left": ("move the door to the left", "slide the door to the left side"),
    "move_slider_right": ("move the door to the right", "slide the door to the right side"),
    "turn_on_lightbulb": ("turn on the light bulb", "push the switch upwards"),
    "turn_off_lightbulb": ("turn off the light bulb", "push the switch downwards"),
    "turn_on_led": ("turn on the green light", "press the button to switch the LED on"),
    "turn_off_led": ("turn off the green light", "press the button to switch the LED off"),
}


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) at whose end ``task`` is accomplished relative to their first."""

    task: str
    start: int
    stop: int
    later: bool = False
    """A further start in an approach that another window shows from its beginning."""


def cut_windows(
    executions: Sequence[Execution], scene_obs: np.ndarray, rng: np.random.Generator
) -> list[Window]:
    """Up to three windows per execution; ``scene_obs`` float64 [T, 24] of the episode.

    The first starts up to eight frames before the expert took over, the later ones on its way to
    the object. Every window is at most 64 frames long, starts with the task to be done and its
    object untouched, and passes the task oracle.
    """
    windows = []
    for execution in executions:
        lead, later = int(rng.integers(_MAX_LEAD + 1)), rng.random(_LATER_STARTS)
        touched = _first_touch(execution, scene_obs)
        first = max(execution.free, execution.approach - lead, execution.stop - MAX_FRAMES)
        start = _valid_start(execution, scene_obs, range(first, touched))
        if start is None:
            continue
        windows.append(Window(execution.task, start, execution.stop))
        low = max(start, execution.approach) + _MIN_LATER
        high = min(touched, execution.stop - _MIN_FRAMES)
        edges = np.linspace(low, max(low, high), _LATER_STARTS + 1).astype(int).tolist()
        for (begin, end), place in zip(itertools.pairwise(edges), later, strict=True):
            drawn = range(begin + int(place * (end - begin)), end)
            start = _valid_start(execution, scene_obs, drawn)
            if start is not None:
                windows.append(Window(execution.task, start, execution.stop, later=True))
    return windows


def select_windows(windows: Sequence[Window], limit: int) -> list[Window]:
    """At most ``limit`` windows per task, spread evenly; later starts only fill up.

    The result is sorted by start.
    """
    selected: list[Window] = []
    for task in tasks.RULES:
        chosen: list[Window] = []
        for later in (False, True):
            pool = [w for w in windows if w.task == task and w.later == later]
            count = min(len(pool), limit - len(chosen))
            if count:
                places = np.linspace(0, len(pool) - 1, count).round().astype(int)
                chosen += [pool[place] for place in places]
        selected += chosen
    return sorted(selected, key=lambda window: (window.start, window.task))


def sentence(window: Window) -> str:
    """A sentence for the window; tasks have a few, taken in turn."""
    choices = SENTENCES[window.task]
    return choices[window.start % len(choices)]


def _first_touch(execution: Execution, scene_obs: np.ndarray) -> int:
    """First frame in which the task's object has changed since the expert took over."""
    frames = scene_obs[execution.approach : execution.success + 1]
    changed = tasks.changed(execution.task, frames[0], frames)
    return execution.approach + int(np.argmax(changed))


def _valid_start(execution: Execution, scene_obs: np.ndarray, frames: range) -> int | None:
    """The first of ``frames`` that a held-out episode could start from."""
    reference, end = scene_obs[execution.approach], scene_obs[execution.stop - 1]
    for start in frames:
        scene = scene_obs[start]
        if (
            tasks.startable(execution.task, scene)
            and not tasks.changed(execution.task, scene, reference)
            and scene[tasks.BUTTON] < _RELEASED_M
            and tasks.achieved(execution.task, scene, end)
        ):
            return start
    return None
