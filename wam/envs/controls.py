"""The two controls of an evaluation: what can be reached, and what happens by itself."""

from collections.abc import Callable

import numpy as np

from wam.envs.episode import Controller, Episode
from wam.envs.play.experts import Expert
from wam.envs.simulator.play_table import PlayTableEnv


class ScriptedExpert:
    """The task's expert without noise, from wherever the episode starts."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._expert: Expert | None = None

    def act(self, env: PlayTableEnv, observation: dict[str, np.ndarray]) -> np.ndarray:
        if self._expert is None:
            rng = np.random.default_rng(self._episode.seed)
            self._expert = Expert(self._episode.task, rng, scene=env.scene)
        return self._expert.act(observation, env.target_pose)


class HoldStill:
    """No motion; the gripper stays as it was last commanded."""

    def __init__(self, episode: Episode) -> None:
        pass

    def act(self, env: PlayTableEnv, observation: dict[str, np.ndarray]) -> np.ndarray:
        gripper = 1.0 if observation["robot_obs"][14] >= 0 else -1.0
        return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper])


CONTROLS: dict[str, Callable[[Episode], Controller]] = {"expert": ScriptedExpert, "zero": HoldStill}
