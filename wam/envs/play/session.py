"""Continuous scripted play: tasks, failed attempts, detours and block pushes, chained at random."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wam import tasks
from wam.config import TASKS
from wam.envs.play.execution import Execution
from wam.envs.play.experts import (
    CLOSED,
    OPEN,
    Expert,
    Manner,
    Waypoint,
    depart,
    last_gripper,
    motion,
    reached,
    toward,
    with_noise,
)
from wam.envs.play.pushes import push_block
from wam.envs.play.starts import random_pose, random_start
from wam.envs.scene_files.geometry import Vector, scene_geometry
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.spaces import ObservationDict

_PUSH_PROBABILITY = 0.3
"""Where no block can be pushed, which is as often as not, a detour takes the push's place."""
_DETOUR_PROBABILITY = 0.25
_DETOUR_STEPS = 12
_BESIDE_PROBABILITY = 0.5
BESIDE_M = (0.02, 0.10)
"""So far beside its object half of the attempts still succeed: where success ends is between."""
_MISS_M = (0.01, 0.12)
_MISS_STEPS = 16
_BREAK_OFF_STEPS = (8, 40)
_HESITANT_STEPS = (4, 16)
_HESITANT_SPEED = (0.15, 0.5)
_HOLD_STEPS = (0, 12)
_PART_OF_MOVE = (0.0, 0.8)
"""Of the way that counts as success. The arm lags behind its target, and the door runs on: one move
in four counts after all, so that play has both sides of the limit."""
_SLIP_PROBABILITY = 0.5
_SLIP_M = (0.04, 0.10)
_SLIP_STEPS = 16
_SHAKINESS = 3.0
"""At most this many times the noise of an execution."""
_RETREAT_PROBABILITY = 0.5
_FINISH_PROBABILITY = 0.5
_TASK_STEPS = 72
_FINISH_STEPS = 10
_MARGIN_M = 0.02
"""A door or drawer must be this much farther from its end than a task's limit asks for."""


def random_manner(rng: np.random.Generator, noise: float) -> Manner:
    """A manner that solves its task; ``noise`` as in :class:`Manner`."""
    return Manner(
        speed=rng.uniform(0.8, 1.0),
        noise=noise,
        reach=rng.uniform(0.3, 1.0),
        along=rng.uniform(-1.0, 1.0),
    )


@dataclass
class Play:
    """One episode of play; iterate over :meth:`frames`, then read ``executions``.

    ``noise`` is the standard deviation of the noise on the experts' motion, in units of an action.
    ``fumbles`` is the chance that the first attempt at a task is a careless one: without failures,
    and those by a hair above all, no model learns where success ends. ``partial_moves`` is the
    share of such attempts at a door or the drawer that get hold of it and leave it on its way,
    ``miss_again`` the chance that one is followed by the task's motion beside the object, and that
    by another one.
    """

    env: PlayTableEnv
    rng: np.random.Generator
    noise: float
    fumbles: float
    partial_moves: float = 0.0
    miss_again: float = 0.0
    executions: list[Execution] = field(default_factory=list)
    action: np.ndarray = field(init=False)
    """float64 [7], the command behind the last observation"""

    def frames(self, count: int) -> Iterator[ObservationDict]:
        """``count`` observations, one per control step."""
        self._geometry = scene_geometry(self.env.scene)
        self._observation, _ = self.env.reset(options=random_start(self.env, self.rng))
        self._frame = 0
        yield self._observation
        steps = self._play()
        for self._frame in range(1, count):
            self.action = next(steps)
            self._observation = self.env.step(self.action)[0]
            yield self._observation

    def _play(self) -> Iterator[np.ndarray]:
        """Endless actions."""
        counts = dict.fromkeys(TASKS, 0)
        while True:
            for task in self._halfway():
                if self.rng.random() < _FINISH_PROBABILITY:
                    yield from self._attempt(self._expert(task), _TASK_STEPS)
            free = self._frame
            if self.rng.random() < _PUSH_PROBABILITY:
                yield from self._follow(self._push() or [self._detour()])
            elif self.rng.random() < _DETOUR_PROBABILITY:
                yield from self._follow([self._detour()])
            task = self._choose(counts)
            counts[task] += 1
            if self.rng.random() < self.fumbles:
                yield from self._fail(task)
                if self.rng.random() < _RETREAT_PROBABILITY:
                    yield from self._follow([self._detour()])
                free = self._frame
            if _ready(task, self._observation["scene_obs"]):
                yield from self._execute(task, free)

    def _push(self) -> list[Waypoint]:
        return push_block(self._observation["scene_obs"], self._geometry, self.rng)

    def _detour(self) -> Waypoint:
        """Some pose over the table, so that the next task starts from anywhere."""
        pose = random_pose(self.rng)
        gripper = OPEN if self.rng.random() < 0.5 else CLOSED
        return Waypoint(tuple(pose[:3]), tuple(pose[3:]), gripper, 0.03, _DETOUR_STEPS)

    def _follow(self, waypoints: Sequence[Waypoint]) -> Iterator[np.ndarray]:
        """Visit ``waypoints``, giving up each after its time."""
        speed = self.rng.uniform(0.7, 1.0)
        for waypoint in (*depart(self._observation["robot_obs"], waypoints[0]), *waypoints):
            yield from self._go(waypoint, speed)

    def _go(self, waypoint: Waypoint, speed: float = 1.0) -> Iterator[np.ndarray]:
        """Straight to ``waypoint``, for at most its time."""
        for _ in range(waypoint.max_steps):
            robot_obs = self._observation["robot_obs"]
            if reached(waypoint, robot_obs):
                return
            action = toward(waypoint, robot_obs, self.env.target_pose, speed)
            yield with_noise(action, self.rng, self.noise)

    def _choose(self, counts: dict[str, int]) -> str:
        """A task that can be done now; those done less often so far are likelier."""
        scene_obs = self._observation["scene_obs"]
        ready = [task for task in TASKS if _ready(task, scene_obs)]
        weights = np.array([1.0 / (1 + counts[task]) ** 3 for task in ready])
        return ready[self.rng.choice(len(ready), p=weights / weights.sum())]

    def _fail(self, task: str) -> Iterator[np.ndarray]:
        rule = tasks.RULES[task]
        # No draw where nothing asks for it: play without partial moves stays what it was.
        if (
            self.partial_moves
            and isinstance(rule, tasks.Move)
            and self.rng.random() < self.partial_moves
        ):
            yield from self._move_partly(task, rule)
        else:
            yield from self._fumble(task)

    def _move_partly(self, task: str, rule: tasks.Move) -> Iterator[np.ndarray]:
        """Move a door or the drawer part of the way; then slip off it, or wait."""
        start = float(self._observation["scene_obs"][rule.index])
        goal = start + self.rng.uniform(*_PART_OF_MOVE) * rule.distance
        direction = np.sign(rule.distance)
        for action in self._attempt(self._expert(task), _TASK_STEPS):
            if direction * (float(self._observation["scene_obs"][rule.index]) - goal) >= 0:
                break
            yield action
        if self.rng.random() < _SLIP_PROBABILITY:
            yield from self._slip()
        else:
            yield from self._hold()
        yield from self._follow([self._detour()])

    def _slip(self) -> Iterator[np.ndarray]:
        """On past whatever the fingers are at: to any side, or over it."""
        direction = self.rng.normal(size=3)
        direction[2] = abs(direction[2])
        way = self.rng.uniform(*_SLIP_M) * direction / np.linalg.norm(direction)
        target = self.env.target_pose
        gripper = last_gripper(self._observation["robot_obs"])
        x, y, z = (target[:3] + way).tolist()
        euler = tuple(target[3:].tolist())
        yield from self._go(Waypoint((x, y, z), euler, gripper, 0.02, _SLIP_STEPS))

    def _fumble(self, task: str) -> Iterator[np.ndarray]:
        """Go for ``task`` shakily, and beside its object or not to the end."""
        shift, steps = (0.0, 0.0, 0.0), _TASK_STEPS
        if self.rng.random() < _BESIDE_PROBABILITY:
            shift = self._beside()
        else:
            steps = int(self.rng.integers(*_BREAK_OFF_STEPS))
        manner = random_manner(self.rng, self.noise * self.rng.uniform(1.0, _SHAKINESS))
        expert = self._expert(task, replace(manner, shift=shift))
        yield from self._attempt(expert, steps)
        while self.miss_again and self.rng.random() < self.miss_again:
            if not _ready(task, self._observation["scene_obs"]):
                break
            yield from self._miss(task)
        # Slowly on to the object, and perhaps not as far: this shows to millimetres what it takes.
        hesitant = replace(manner, speed=self.rng.uniform(*_HESITANT_SPEED))
        steps = int(self.rng.integers(*_HESITANT_STEPS))
        yield from self._attempt(self._expert(task, hesitant), steps)
        yield from self._hold()

    def _beside(self) -> Vector:
        """By how much an attempt misses its object, m."""
        direction = self.rng.normal(size=3)
        away = self.rng.uniform(*BESIDE_M) / np.linalg.norm(direction)
        x, y, z = (away * direction).tolist()
        return x, y, z

    def _miss(self, task: str) -> Iterator[np.ndarray]:
        """The task's motion at the object, straight from here, displaced along one axis."""
        shift = np.zeros(3)
        shift[self.rng.integers(3)] = self.rng.choice((-1, 1)) * self.rng.uniform(*_MISS_M)
        manner = random_manner(self.rng, self.noise)
        scene_obs = self._observation["scene_obs"]
        for step in motion(task, scene_obs, self._geometry, manner):
            x, y, z = np.add(step.position, shift).tolist()
            beside = replace(step, position=(x, y, z), tolerance_m=0.015, max_steps=_MISS_STEPS)
            yield from self._go(beside, manner.speed)

    def _hold(self) -> Iterator[np.ndarray]:
        """Waiting at an object changes nothing either."""
        held = self.env.target_pose
        gripper = last_gripper(self._observation["robot_obs"])
        waypoint = Waypoint(tuple(held[:3]), tuple(held[3:]), gripper)
        for _ in range(self.rng.integers(*_HOLD_STEPS)):
            action = toward(waypoint, self._observation["robot_obs"], self.env.target_pose)
            yield with_noise(action, self.rng, self.noise)

    def _attempt(self, expert: Expert, steps: int) -> Iterator[np.ndarray]:
        """The rest of the expert's plan, for at most ``steps``."""
        plans = expert.plans_done
        for _ in range(steps):
            action = expert.act(self._observation, self.env.target_pose)
            if expert.plans_done > plans:
                return
            yield action

    def _execute(self, task: str, free: int) -> Iterator[np.ndarray]:
        expert = self._expert(task)
        approach, start = self._frame, self._observation["scene_obs"]
        for _ in range(_TASK_STEPS):
            yield expert.act(self._observation, self.env.target_pose)
            if tasks.achieved(task, start, self._observation["scene_obs"]):
                break
        else:
            return
        success = self._frame
        for _ in range(self.rng.integers(1, 4)):
            yield expert.act(self._observation, self.env.target_pose)
        stop = self._frame + 1
        if tasks.achieved(task, start, self._observation["scene_obs"]):
            self.executions.append(Execution(task, free, approach, success, stop))
        # A door or drawer that stops half-way could be moved in neither direction.
        if isinstance(tasks.RULES[task], tasks.Move):
            yield from self._attempt(expert, _FINISH_STEPS)

    def _halfway(self) -> list[str]:
        """One task for each door or drawer that stands where neither of its two can be done."""
        scene_obs = self._observation["scene_obs"]
        pairs = (("open_drawer", "close_drawer"), ("move_slider_left", "move_slider_right"))
        return [
            pair[self.rng.integers(2)]
            for pair in pairs
            if not any(_ready(task, scene_obs) for task in pair)
        ]

    def _expert(self, task: str, manner: Manner | None = None) -> Expert:
        manner = manner or random_manner(self.rng, self.noise)
        return Expert(task, self.rng, manner, self.env.scene)


def _ready(task: str, scene_obs: np.ndarray) -> bool:
    """Startable with a margin, so that a slow finish still counts."""
    shifted = scene_obs.copy()
    rule: Any = tasks.RULES[task]
    if isinstance(rule, tasks.Move):
        shifted[rule.index] += np.sign(rule.distance) * _MARGIN_M
    return bool(tasks.startable(task, shifted))
