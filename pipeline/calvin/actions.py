"""CALVIN's actions in hindsight: what led from one state to the next.

Source: docs/calvin.md 1.4.
"""

import numpy as np

from wam.config import POSITION_STEP_M, ROTATION_STEP_RAD

_POSE_AND_COMMAND = [*range(6), 14]
"""In ``robot_obs``: TCP position (m) and Euler angles (rad), gripper command."""


def absolute(next_robot_obs: np.ndarray) -> np.ndarray:
    """``actions`` [..., 7] that led to the states ``next_robot_obs`` [..., 15]."""
    return next_robot_obs[..., _POSE_AND_COMMAND]


def relative(actions: np.ndarray, robot_obs: np.ndarray) -> np.ndarray:
    """``rel_actions`` [..., 7]: ``actions`` [..., 7] seen from the states ``robot_obs`` [..., 15].

    Position and wrapped Euler difference in units of 2 cm and 0.05 rad, clipped to [-1, 1].
    """
    position = (actions[..., :3] - robot_obs[..., :3]) / POSITION_STEP_M
    turn = wrapped(actions[..., 3:6] - robot_obs[..., 3:6]) / ROTATION_STEP_RAD
    motion = np.concatenate([position, turn], axis=-1).clip(-1, 1)
    return np.concatenate([motion, actions[..., 6:]], axis=-1)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """``angle`` (rad) in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
