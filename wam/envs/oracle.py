"""Which tasks two ``info`` of the simulator prove (CALVIN contract 4).

A comparison of two moments without history. Each predicate takes the start and the end info; the
eight tasks of DiWA and WAM read the doors and lights alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from wam import tasks
from wam.config import TASKS
from wam.envs.geometry import BUTTON, DRAWER, SLIDE, SWITCH

Info = dict[str, Any]
Predicate = Callable[[Info, Info], bool]


def achieved(start_info: Info, end_info: Info) -> set[str]:
    """Names of all tasks that hold between the two."""
    return {name for name, predicate in PREDICATES.items() if predicate(start_info, end_info)}


def fixtures(info: Info) -> np.ndarray:
    """``scene_obs[:6]`` float64 [6]: door, drawer, button, switch, bulb, LED."""
    scene = info["scene_info"]
    return np.array(
        [
            scene["doors"][SLIDE]["current_state"],
            scene["doors"][DRAWER]["current_state"],
            scene["buttons"][BUTTON]["joint_state"],
            scene["switches"][SWITCH]["joint_state"],
            scene["lights"]["lightbulb"]["logical_state"],
            scene["lights"]["led"]["logical_state"],
        ],
        dtype=np.float64,
    )


def _fixture_task(name: str) -> Predicate:
    def holds(start: Info, end: Info) -> bool:
        return bool(tasks.achieved(name, fixtures(start), fixtures(end)))

    return holds


PREDICATES: dict[str, Predicate] = {name: _fixture_task(name) for name in TASKS}
