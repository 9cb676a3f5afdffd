"""Scripted experts for the eight tasks, usable from any state of the arm and the scene.

An expert follows waypoints of the TCP. The position part of an action is the way from the robot's
accumulated target to the waypoint, in units of 2 cm and clipped; the rotation part likewise.
"""

from dataclasses import dataclass, replace

import numpy as np

from wam.config import POSITION_STEP_M, ROTATION_STEP_RAD, TASKS
from wam.envs.scene_files.geometry import (
    SceneGeometry,
    Vector,
    scene_geometry,
)
from wam.errors import WamError
from wam.tasks import BUTTON, DRAWER, SLIDER, SWITCH

DOWN = (3.09045411, -0.02908596, 1.50013585)
"""Fingers point down (the home orientation)."""
TILT, STEEP_TILT = (3.09, -0.75, 1.55), (3.09, -0.55, 1.55)
"""Fingers point forward and down, for the switch; near its own base the arm bends no further."""
CLOSED, OPEN = -1.0, 1.0

_TRAVEL_Z = 0.53
"""Above the blocks, below the lamps."""
_CLEAR_Y = -0.09
"""In front of every handle of the cabinet."""


@dataclass(frozen=True)
class Waypoint:
    """Where to bring the TCP next."""

    position: Vector
    euler: Vector
    gripper: float
    tolerance_m: float = 0.012
    max_steps: int = 40
    rotate: bool = True
    """False: keep the orientation, the fingers may still be caught behind a handle."""


@dataclass(frozen=True)
class Manner:
    """How a task is done; every manner without a shift solves it."""

    speed: float = 1.0
    """Largest component of a motion, in units of an action."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on the six motion components, in the same units."""
    reach: float = 1.0
    """In [0, 1]: how far beyond what the task needs a door or the drawer is moved."""
    along: float = 0.0
    """In [-1, 1]: where on a handle or button the fingers go."""
    shift: Vector = (0.0, 0.0, 0.0)
    """Metres by which the fingers pass beside the object: a miss."""


class Expert:
    """Solves one task; a plan that has run out without success is made anew from where the arm is.

    Raises WamError for an unknown task or scene.
    """

    def __init__(
        self, task: str, rng: np.random.Generator, manner: Manner | None = None, scene: str = "D"
    ) -> None:
        if task not in TASKS:
            raise WamError(f"task '{task}': unknown; known: {', '.join(TASKS)}")
        self.task = task
        self._rng, self._manner = rng, manner or Manner()
        self._geometry = scene_geometry(scene)
        self.plans_done = 0
        """How often the last waypoint of a plan was reached, or given up."""
        self._plan: list[Waypoint] = []
        self._steps = 0

    def act(self, observation: dict[str, np.ndarray], target: np.ndarray) -> np.ndarray:
        """The next action float64 [7] from ``robot_obs`` [15] and ``scene_obs`` [24].

        ``target`` [6] is the robot's accumulated target (``PlayTableEnv.target_pose``).
        """
        robot_obs, scene_obs = observation["robot_obs"], observation["scene_obs"]
        self._advance(robot_obs, scene_obs)
        action = toward(self._plan[0], robot_obs, target, self._manner.speed)
        return with_noise(action, self._rng, self._manner.noise)

    def _advance(self, robot_obs: np.ndarray, scene_obs: np.ndarray) -> None:
        if not self._plan:
            self._plan, self._steps = self._make(robot_obs, scene_obs), 0
        while True:
            waypoint = self._plan[0]
            if self._steps < waypoint.max_steps and not reached(waypoint, robot_obs):
                self._steps += 1
                return
            self._steps = 0
            if len(self._plan) == 1:
                # Done, or missed: start over from here.
                self.plans_done += 1
                self._plan = self._make(robot_obs, scene_obs)
                self._steps = 1
                return
            self._plan.pop(0)

    def _make(self, robot_obs: np.ndarray, scene_obs: np.ndarray) -> list[Waypoint]:
        return plan_task(self.task, robot_obs, scene_obs, self._geometry, self._manner)


def toward(
    waypoint: Waypoint, robot_obs: np.ndarray, target: np.ndarray, speed: float = 1.0
) -> np.ndarray:
    """The action float64 [7] that moves the robot's ``target`` [6] towards ``waypoint``."""
    action = np.zeros(7)
    action[:3] = (np.asarray(waypoint.position) - target[:3]) / POSITION_STEP_M
    if waypoint.rotate:
        difference = np.asarray(waypoint.euler) - target[3:]
        action[3:6] = ((difference + np.pi) % (2 * np.pi) - np.pi) / ROTATION_STEP_RAD
    action[:6] = action[:6].clip(-speed, speed)
    action[6] = waypoint.gripper
    return action


def with_noise(action: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """``action`` [7] with Gaussian noise on its six motion components, kept in [-1, 1]."""
    noisy = action.copy()
    noisy[:6] = (action[:6] + rng.normal(0.0, noise, 6)).clip(-1.0, 1.0)
    return noisy


def last_gripper(robot_obs: np.ndarray) -> float:
    """The last gripper command, as ``robot_obs`` [15] tells it."""
    return CLOSED if robot_obs[14] < 0 else OPEN


def reached(waypoint: Waypoint, robot_obs: np.ndarray) -> bool:
    """Whether the TCP of ``robot_obs`` [15] is within the waypoint's tolerance."""
    distance = np.linalg.norm(robot_obs[:3] - np.asarray(waypoint.position))
    return bool(distance < waypoint.tolerance_m)


def plan_task(
    task: str,
    robot_obs: np.ndarray,
    scene_obs: np.ndarray,
    geometry: SceneGeometry,
    manner: Manner,
) -> list[Waypoint]:
    """Waypoints that do ``task`` from here."""
    steps = [
        replace(step, position=tuple(np.add(step.position, manner.shift).tolist()))
        for step in _PLANNERS[task](scene_obs, geometry, manner)
    ]
    if _in_place(steps, robot_obs):
        return _from_contact(steps)
    return [*depart(robot_obs, steps[0]), *_crossing(robot_obs, steps[0]), *steps]


def motion(
    task: str, scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    """What ``task`` does at its object, wherever the fingers are."""
    return _from_contact(_PLANNERS[task](scene_obs, geometry, manner))


def depart(robot_obs: np.ndarray, goal: Waypoint) -> list[Waypoint]:
    """Waypoints that free the fingers from whatever they are at before the way to ``goal``."""
    x, y, z = (float(value) for value in robot_obs[:3])
    gripper = last_gripper(robot_obs)
    euler = tuple(float(value) for value in robot_obs[3:6])

    def leave(position: Vector) -> list[Waypoint]:
        return [Waypoint(position, euler, gripper, 0.03, 15, rotate=False)]  # type: ignore[arg-type]

    way = np.hypot(goal.position[0] - x, goal.position[1] - y)
    if y > -0.06 and z > 0.47:
        return leave((x, _CLEAR_Y, max(z, 0.50)))
    if z < 0.50 and way > 0.03:
        return leave((x, y, _TRAVEL_Z if y > -0.20 else 0.48))
    return []


def _crossing(robot_obs: np.ndarray, goal: Waypoint) -> list[Waypoint]:
    """A way to a low ``goal`` that stays above the button and the blocks until it is near."""
    x, y, z = goal.position
    if z >= _TRAVEL_Z - 0.03 or np.hypot(x - robot_obs[0], y - robot_obs[1]) < 0.15:
        return []
    return [Waypoint((x, y, _TRAVEL_Z), goal.euler, goal.gripper, 0.08)]


def _from_contact(steps: list[Waypoint]) -> list[Waypoint]:
    """All but the way there; what is pressed is pressed from above each time."""
    return steps[1:] if len(steps) > 2 else steps


def _in_place(steps: list[Waypoint], robot_obs: np.ndarray) -> bool:
    """Whether the fingers already are where the second waypoint, the contact, wants them."""
    contact = steps[1]
    offset = np.abs(robot_obs[:3] - np.asarray(contact.position))
    # A closed hand has a nearly zero width, an open one 0.08.
    ready = robot_obs[6] > 0.07 if contact.gripper > 0 else robot_obs[6] < 0.02
    return contact.tolerance_m < 0.01 and ready and bool((offset < (0.03, 0.012, 0.02)).all())


def _drawer(
    goal: float, scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    """Into the gap behind the handle bar, then the drawer to joint value ``goal``."""
    x, q = geometry.drawer[0] + 0.05 * manner.along, float(scene_obs[DRAWER])
    gap = -0.213 - q
    # Pulling hooks the bar 2.6 cm in front of the gap's centre, pushing the front 2 cm behind it.
    final = -0.213 - goal - (0.022 if goal > q else -0.022)
    return [
        Waypoint((x, gap, 0.45), DOWN, CLOSED, 0.015),
        Waypoint((x, gap, 0.365), DOWN, CLOSED, 0.008, 20),
        Waypoint((x, final, 0.365), DOWN, CLOSED, 0.006, 25),
    ]


def _open_drawer(scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner) -> list[Waypoint]:
    lowest = min(max(float(scene_obs[DRAWER]) + 0.135, 0.16), 0.215)
    return _drawer(lowest + manner.reach * (0.215 - lowest), scene_obs, geometry, manner)


def _close_drawer(scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner) -> list[Waypoint]:
    highest = max(min(float(scene_obs[DRAWER]) - 0.135, 0.05), 0.0)
    return _drawer(highest * (1 - manner.reach), scene_obs, geometry, manner)


def _slider(
    goal: float, scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    """Open fingers around the handle bar, then the door to joint value ``goal``."""
    q = float(scene_obs[SLIDER])
    closed_x = geometry.slide[0] + 0.14
    # The handle has 2 cm of play between the fingers.
    final = closed_x - goal - (0.02 if goal > q else -0.02)
    # It runs up the cabinet's 60 degree front.
    y, z = 0.01 * manner.along, 0.535 + 0.017 * manner.along
    return [
        Waypoint((closed_x - q, -0.07, 0.58), DOWN, OPEN, 0.015),
        Waypoint((closed_x - q, y, z), DOWN, OPEN, 0.009, 20),
        Waypoint((final, y, z), DOWN, OPEN, 0.006, 25),
    ]


def _move_slider_left(
    scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    limit = geometry.slide_limit
    lowest = min(max(float(scene_obs[SLIDER]) + 0.165, limit - 0.08), limit)
    return _slider(lowest + manner.reach * (limit - lowest), scene_obs, geometry, manner)


def _move_slider_right(
    scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    highest = max(min(float(scene_obs[SLIDER]) - 0.165, 0.08), 0.0)
    return _slider(highest * (1 - manner.reach), scene_obs, geometry, manner)


def _push_switch_up(
    scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    x, tilt = geometry.switch[0] + 0.02 * manner.along, _tilt(geometry)
    return [
        Waypoint((x, -0.10, 0.50), tilt, CLOSED, 0.015, 50),
        Waypoint((x, -0.01, 0.495), tilt, CLOSED, 0.008, 20),
        Waypoint((x, 0.045, 0.60), tilt, CLOSED, 0.006, 25),
    ]


def _push_switch_down(
    scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner
) -> list[Waypoint]:
    x, tilt = geometry.switch[0] - 0.01 + 0.02 * manner.along, _tilt(geometry)
    # The bar slides up the cabinet's 60 degree front.
    lower = float(scene_obs[SWITCH]) - 0.088
    y, z = 0.5 * lower, 0.866 * lower
    return [
        Waypoint((x, -0.03, 0.67), tilt, CLOSED, 0.02, 50),
        Waypoint((x, 0.075 + y, 0.665 + z), tilt, CLOSED, 0.012, 20),
        Waypoint((x, 0.07 + y, 0.635 + z), tilt, CLOSED, 0.01, 10),
        Waypoint((x, 0.02, 0.55), tilt, CLOSED, 0.006, 25),
    ]


def _tilt(geometry: SceneGeometry) -> Vector:
    return TILT if geometry.switch[0] > 0 else STEEP_TILT


def _press_button(scene_obs: np.ndarray, geometry: SceneGeometry, manner: Manner) -> list[Waypoint]:
    x, y = geometry.button[0] + 0.012 * manner.along, geometry.button[1]
    # A button that is still down has to come up before it can be pressed again.
    height = 0.54 if scene_obs[BUTTON] < 0.005 else 0.52
    return [
        Waypoint((x, y, height), DOWN, CLOSED, 0.012),
        Waypoint((x, y, 0.476), DOWN, CLOSED, 0.004, 15),
    ]


_PLANNERS = {
    "open_drawer": _open_drawer,
    "close_drawer": _close_drawer,
    "move_slider_left": _move_slider_left,
    "move_slider_right": _move_slider_right,
    "turn_on_lightbulb": _push_switch_up,
    "turn_off_lightbulb": _push_switch_down,
    "turn_on_led": _press_button,
    "turn_off_led": _press_button,
}
