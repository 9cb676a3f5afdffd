"""The real simulator with the arm above the button: pushing down on it turns the LED on."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np

from tests.processes import children
from wam.envs.episode import Episode
from wam.envs.simulator.play_table import PlayTableEnv

STATES = partial(PlayTableEnv, cameras=False)
PIXELS = partial(PlayTableEnv, renderer="tiny", static_size=64, gripper_size=64)
HOLD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def recorded(log: Path) -> PlayTableEnv:
    """An environment with images; its process, and those beside it, are written to ``log``."""
    with log.open("a") as file:
        file.write(json.dumps([os.getpid(), children(os.getppid())]) + "\n")
    return PIXELS()


def processes(log: Path) -> tuple[list[int], int]:
    """The processes of ``log``, one per environment, and the most of them that ran at a time."""
    made = [json.loads(line) for line in log.read_text().splitlines()]
    pids = [pid for pid, _ in made]
    return pids, max(len(set(beside) & set(pids)) for _, beside in made)


def episodes(count: int) -> list[Episode]:
    """Starts with the arm a little above the button and a little apart from each other."""
    env = STATES()
    made = []
    try:
        for index in range(count):
            observation, _ = env.reset(seed=index)
            target = np.array([-0.12 + 0.002 * index, -0.12, 0.53])
            for _ in range(30):
                motion = np.clip((target - env.target_pose[:3]) / 0.02, -1, 1)
                observation = env.step([*motion, 0, 0, 0, -1.0])[0]
            made.append(
                Episode("turn_on_led", observation["robot_obs"], observation["scene_obs"], index)
            )
    finally:
        env.close()
    return made
