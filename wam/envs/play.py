"""Continuous scripted play: experts chained at random, with detours, changing pace and misses."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wam import tasks
from wam.config import TASKS
from wam.envs.execution import Execution
from wam.envs.experts import CLOSED, OPEN, Expert, Waypoint, depart, reached, toward
from wam.envs.geometry import scene_geometry
from wam.envs.play_table import Observation, PlayTableEnv
from wam.envs.starts import random_pose, random_robot, random_scene

_DETOUR_PROBABILITY = 0.5
_DETOUR_STEPS = 16
_MISS_PROBABILITY = 0.06
_TASK_STEPS = 72
_FINISH_STEPS = 10
_MARGIN_M = 0.02
"""A door or drawer must be this much farther from its end than a task's limit asks for."""

# Offsets in x and y that pass the object by without jamming the fingers; the drawer has none.
_MISSES = {
    "move_slider_left": (-0.075, 0.0),
    "move_slider_right": (0.075, 0.0),
    "turn_on_lightbulb": (-0.14, 0.0),
    "turn_on_led": (0.055, 0.02),
    "turn_off_led": (0.055, 0.02),
}


@dataclass
class Play:
    """One episode of play; iterate over :meth:`frames`, then read ``executions``.

    ``noise`` is the standard deviation of the noise on the experts' motion, in units of an action.
    """

    env: PlayTableEnv
    rng: np.random.Generator
    noise: float
    executions: list[Execution] = field(default_factory=list)

    def frames(self, count: int) -> Iterator[Observation]:
        """``count`` observations, one per control step."""
        geometry = scene_geometry(self.env.scene)
        self.env.reset()
        robot_obs = random_robot(self.env, self.rng)
        scene_obs = random_scene(self.rng, geometry)
        self._observation, _ = self.env.reset(
            options={"robot_obs": robot_obs, "scene_obs": scene_obs}
        )
        self._frame = 0
        yield self._observation
        steps = self._play()
        for self._frame in range(1, count):
            self._observation = self.env.step(next(steps))[0]
            yield self._observation

    def _play(self) -> Iterator[np.ndarray]:
        """Endless actions."""
        counts = dict.fromkeys(TASKS, 0)
        while True:
            free = self._frame
            if self.rng.random() < _DETOUR_PROBABILITY:
                yield from self._detour()
            task = self._choose(counts)
            counts[task] += 1
            yield from self._execute(task, free)

    def _detour(self) -> Iterator[np.ndarray]:
        """Wander to some pose over the table, so that the next task starts from anywhere."""
        pose = random_pose(self.rng)
        gripper = OPEN if self.rng.random() < 0.5 else CLOSED
        goal = Waypoint(tuple(pose[:3]), tuple(pose[3:]), gripper, 0.03)
        speed = self.rng.uniform(0.7, 1.0)
        for waypoint in (*self._leave(goal), goal):
            for _ in range(min(waypoint.max_steps, _DETOUR_STEPS)):
                robot_obs = self._observation["robot_obs"]
                if reached(waypoint, robot_obs):
                    break
                action = toward(waypoint, robot_obs, self.env.target_pose, speed)
                yield self._noisy(action)

    def _leave(self, goal: Waypoint) -> list[Waypoint]:
        return depart(self._observation["robot_obs"], goal)

    def _choose(self, counts: dict[str, int]) -> str:
        """A task that can be done now; those done less often so far are likelier."""
        scene_obs = self._observation["scene_obs"]
        ready = [task for task in TASKS if _ready(task, scene_obs)]
        weights = np.array([1.0 / (1 + counts[task]) ** 3 for task in ready])
        return ready[self.rng.choice(len(ready), p=weights / weights.sum())]

    def _execute(self, task: str, free: int) -> Iterator[np.ndarray]:
        missed = task in _MISSES and self.rng.random() < _MISS_PROBABILITY
        expert = Expert(
            task,
            self.rng,
            self.noise,
            speed=self.rng.uniform(0.85, 1.0),
            reach=self.rng.uniform(0.3, 1.0),
            miss_m=_MISSES[task] if missed else (0.0, 0.0),
            scene=self.env.scene,
        )
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
            self.executions.append(Execution(task, free, approach, success, stop, missed))
        # A door or drawer that stops half-way could be moved in neither direction.
        plans = expert.plans_done
        for _ in range(_FINISH_STEPS if isinstance(tasks.RULES[task], tasks.Move) else 0):
            action = expert.act(self._observation, self.env.target_pose)
            if expert.plans_done > plans:
                break
            yield action

    def _noisy(self, action: np.ndarray) -> np.ndarray:
        action[:6] = (action[:6] + self.rng.normal(0.0, self.noise, 6)).clip(-1.0, 1.0)
        return action


def _ready(task: str, scene_obs: np.ndarray) -> bool:
    """Startable with a margin, so that a slow finish still counts."""
    shifted = scene_obs.copy()
    rule: Any = tasks.RULES[task]
    if isinstance(rule, tasks.Move):
        shifted[rule.index] += np.sign(rule.distance) * _MARGIN_M
    return bool(tasks.startable(task, shifted))
