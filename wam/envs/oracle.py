"""Which of CALVIN's 34 tasks two ``info`` of the simulator prove (docs/calvin.md 4).

A comparison of two moments without history: the start, right after a reset or after the previous
task, and the end. All inequalities are strict, except that a rotated block may have moved by
exactly its limit. The eight tasks of DiWA and WAM read the doors and lights alone.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from wam import tasks
from wam.envs.scene_files.geometry import (
    BLOCK_COLOURS,
    BUTTON_JOINT,
    DRAWER_JOINT,
    SLIDE_JOINT,
    SWITCH_JOINT,
)

Info = dict[str, Any]
Predicate = Callable[[Info, Info], bool]

ROTATION_DEG = 60.0
"""A block must turn by more than this about the vertical, and by less than 180."""
TILT_DEG = 30.0
"""Less than this about the two other axes while it turns."""
ROTATION_SHIFT_M = 0.1
"""At most this far may the block's centre travel while it turns."""
PUSH_M = 0.1
STACK_SPEED = 1.0
"""m/s and rad/s; each component of a stacked block's velocity must be smaller."""
SURFACES = {
    "table": ("base_link", 0.05),
    "slider": ("plank_link", 0.03),
    "drawer": ("drawer_link", 0.05),
}
"""The table's link that carries the blocks, and how far (m) a block must be lifted off it."""


def achieved(start_info: Info, end_info: Info) -> set[str]:
    """Names of all tasks that hold between the two."""
    return {name for name, predicate in PREDICATES.items() if predicate(start_info, end_info)}


def fixtures(info: Info) -> np.ndarray:
    """``scene_obs[:6]`` float64 [6]: door, drawer, button, switch, bulb, LED."""
    scene = info["scene_info"]
    return np.array(
        [
            scene["doors"][SLIDE_JOINT]["current_state"],
            scene["doors"][DRAWER_JOINT]["current_state"],
            scene["buttons"][BUTTON_JOINT]["joint_state"],
            scene["switches"][SWITCH_JOINT]["joint_state"],
            scene["lights"]["lightbulb"]["logical_state"],
            scene["lights"]["led"]["logical_state"],
        ],
        dtype=np.float64,
    )


def _fixture_task(name: str) -> Predicate:
    def holds(start: Info, end: Info) -> bool:
        return bool(tasks.achieved(name, fixtures(start), fixtures(end)))

    return holds


def _rotate(name: str, sign: int) -> Predicate:
    """Turn a block on the spot, counter-clockwise (``sign`` +1) or clockwise (-1)."""

    def holds(start: Info, end: Info) -> bool:
        before, after = _blocks(start)[name], _blocks(end)[name]
        x, y, z = _rotation_deg(before["current_orn"], after["current_orn"])
        return (
            ROTATION_DEG < sign * z < 180
            and max(abs(x), abs(y)) < TILT_DEG
            and math.dist(before["current_pos"], after["current_pos"]) <= ROTATION_SHIFT_M
            and bool(_bodies(after) - {_robot(end)})
        )

    return holds


def _push(name: str, sign: int) -> Predicate:
    """Move a block along x on what it stands on, towards +x (``sign`` +1) or -x (-1)."""

    def holds(start: Info, end: Info) -> bool:
        before, after = _blocks(start)[name], _blocks(end)[name]
        support = _links(before, without=_robot(start))
        return (
            sign * (after["current_pos"][0] - before["current_pos"][0]) > PUSH_M
            and bool(support)
            and support <= _links(after, without=_robot(end))
        )

    return holds


def _lift(name: str, surface: str) -> Predicate:
    """Take a block off a surface into the air."""
    link, height = SURFACES[surface]

    def holds(start: Info, end: Info) -> bool:
        before, after = _blocks(start)[name], _blocks(end)[name]
        return (
            after["current_pos"][2] - before["current_pos"][2] > height
            and _table_link(start, link) in _links(before)
            and _bodies(after) == {_robot(end)}
        )

    return holds


def _place(surface: str) -> Predicate:
    """Put down the block that hangs in the gripper at the start."""
    link, _ = SURFACES[surface]

    def holds(start: Info, end: Info) -> bool:
        held = _bodies(start["robot_info"])
        if len(held) != 1:
            return False
        for name, block in _blocks(start).items():
            if block["uid"] in held:
                after = _blocks(end)[name]
                return (
                    _bodies(block) == {_robot(start)}
                    and _robot(end) not in _bodies(after)
                    and _table_link(end, link) in _links(after)
                )
        return False

    return holds


def _stack(start: Info, end: Info) -> bool:
    """Some block that touched no other now rests on blocks alone."""
    blocks = _uids(start)
    return any(
        not _bodies(before) & blocks and _rests_on(_blocks(end)[name], blocks)
        for name, before in _blocks(start).items()
    )


def _unstack(start: Info, end: Info) -> bool:
    """Some block that rested on blocks alone now touches none."""
    blocks = _uids(start)
    return any(
        _rests_on(before, blocks) and not _bodies(_blocks(end)[name]) & blocks
        for name, before in _blocks(start).items()
    )


def _push_into_drawer(start: Info, end: Info) -> bool:
    """Some block that touched the table top alone now touches the drawer.

    The robot may hold it: CALVIN means to exclude that, but its test never fires.
    """
    table, drawer = (_table_link(start, SURFACES[name][0]) for name in ("table", "drawer"))
    return any(
        _links(before) == {table} and drawer in _links(_blocks(end)[name])
        for name, before in _blocks(start).items()
    )


def _rests_on(block: Info, blocks: set[int]) -> bool:
    """Whether ``block`` touches other blocks and nothing else, and is slow."""
    touched = _bodies(block)
    velocity = (*block["current_lin_vel"], *block["current_ang_vel"])
    return bool(touched) and touched <= blocks and max(map(abs, velocity)) < STACK_SPEED


def _blocks(info: Info) -> dict[str, Info]:
    return info["scene_info"]["movable_objects"]


def _uids(info: Info) -> set[int]:
    return {block["uid"] for block in _blocks(info).values()}


def _robot(info: Info) -> int:
    return info["robot_info"]["uid"]


def _table_link(info: Info, name: str) -> tuple[int, int]:
    """A link of the table as (body, link)."""
    table = info["scene_info"]["fixed_objects"]["table"]
    return table["uid"], table["links"][name]


def _bodies(touching: Info) -> set[int]:
    """The bodies that the contacts of a block or of the robot are with."""
    return {contact[2] for contact in touching["contacts"]}


def _links(touching: Info, without: int | None = None) -> set[tuple[int, int]]:
    """(body, link) of the contacts, except those with body ``without``."""
    return {(contact[2], contact[4]) for contact in touching["contacts"] if contact[2] != without}


def _rotation_deg(start: Sequence[float], end: Sequence[float]) -> tuple[float, float, float]:
    """The rotation between two quaternions xyzw as extrinsic x-y-z Euler angles, in degrees."""
    sx, sy, sz, sw = start
    ex, ey, ez, ew = end
    # end * conjugate(start)
    x = ex * sw - ew * sx - ey * sz + ez * sy
    y = ey * sw - ew * sy - ez * sx + ex * sz
    z = ez * sw - ew * sz - ex * sy + ey * sx
    w = ew * sw + ex * sx + ey * sy + ez * sz
    return (
        math.degrees(math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))),
        math.degrees(math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))),
        math.degrees(math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))),
    )


def _fixture_tasks(names: Iterable[str]) -> dict[str, Predicate]:
    return {name: _fixture_task(name) for name in names}


_TURNS = {"right": -1, "left": 1}
_PUSHES = {"right": 1, "left": -1}

PREDICATES: dict[str, Predicate] = {
    **{
        f"rotate_{colour}_block_{side}": _rotate(f"block_{colour}", sign)
        for colour in BLOCK_COLOURS
        for side, sign in _TURNS.items()
    },
    **{
        f"push_{colour}_block_{side}": _push(f"block_{colour}", sign)
        for colour in BLOCK_COLOURS
        for side, sign in _PUSHES.items()
    },
    **_fixture_tasks(("move_slider_left", "move_slider_right", "open_drawer", "close_drawer")),
    **{
        f"lift_{colour}_block_{surface}": _lift(f"block_{colour}", surface)
        for colour in BLOCK_COLOURS
        for surface in SURFACES
    },
    "place_in_slider": _place("slider"),
    "place_in_drawer": _place("drawer"),
    "stack_block": _stack,
    "unstack_block": _unstack,
    **_fixture_tasks(("turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led")),
    "push_into_drawer": _push_into_drawer,
}
"""All tasks in CALVIN's order: the position of a task is its id, 0 to 33."""
