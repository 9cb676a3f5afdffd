"""Episodes of the simulator: where they start, what is seen and done in them, and who acts."""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Episode(NamedTuple):
    """What an episode starts from."""

    task: str
    robot_obs: np.ndarray
    """float64 [15]"""
    scene_obs: np.ndarray
    """float64 [24]"""
    seed: int = 0
    """Of the random numbers of its controller or filter, and of what disturbs its images."""
    aftermath: int = 0
    """Steps for which it goes on after its first success."""


class Observations(NamedTuple):
    """Arrays over episodes, or over episodes and steps; images are None without cameras."""

    robot_obs: np.ndarray
    """float64 [..., 15]"""
    scene_obs: np.ndarray
    """float64 [..., 24]"""
    rgb_static: np.ndarray | None
    """uint8 [..., height, width, 3]"""
    rgb_gripper: np.ndarray | None
    """uint8 [..., height, width, 3]"""


class StepResult(NamedTuple):
    """What happened in one call, for B episodes and at most n steps.

    An episode stops ``Episode.aftermath`` steps after its first success; later steps repeat its
    last observation (actions: NaN).
    """

    observations: Observations
    """[B, n, ...], after each step"""
    actions: np.ndarray
    """float64 [B, n, 7], as executed"""
    steps: np.ndarray
    """int [B], steps executed in this call"""
    aftermath: np.ndarray
    """int [B], how many of these came after the first success"""
    success: np.ndarray
    """bool [B], the task has been achieved in this or an earlier call"""
    over: np.ndarray
    """bool [B], it will not go on"""

    @property
    def counted(self) -> np.ndarray:
        """int [B], steps executed in this call up to the first success."""
        return self.steps - self.aftermath


class Controller(Protocol):
    """A policy that runs beside the simulator."""

    def act(self, env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The action [7] for the environment's last observation."""
