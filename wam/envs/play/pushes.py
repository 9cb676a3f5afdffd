"""Pushes of blocks along the table, which play does now and then."""

import numpy as np

from wam.envs.play.experts import CLOSED, DOWN, Waypoint
from wam.envs.scene_files.geometry import TABLE_TOP, SceneGeometry

_ABOVE, _LOW = 0.53, 0.468
"""Heights of the TCP; the fingertips reach 1.5 cm lower, at last to the middle of a block."""
_STANDOFF_M, _CONTACT_M = 0.08, 0.045
"""From a block's centre: where the fingers come down, and where they roughly touch it."""
_FREE_M = 0.07
"""Between the fingers coming down and the centre of any block."""
_BUTTON_FREE_M = 0.10
_HAND = np.array([(-0.32, -0.22), (0.36, -0.055)])
"""x and y, low and high, where the hand does no more than brush the cabinet's handles."""
_BLOCK = np.array([(-0.38, -0.145), (0.38, -0.035)])
"""x and y, low and high, where a block stays on the table."""
_TRIES = 16


def push_block(
    scene_obs: np.ndarray, geometry: SceneGeometry, rng: np.random.Generator
) -> list[Waypoint]:
    """Waypoints that push a random block of the table by 2 to 8 cm; none if there is no room."""
    blocks = scene_obs[6:].reshape(3, 6)[:, :3]
    lying = [b[:2] for b in blocks if 0 < b[2] - TABLE_TOP < 0.04 and _within(_BLOCK, b[:2])]
    for _ in range(_TRIES if lying else 0):
        block = lying[rng.integers(len(lying))]
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.02, 0.08)
        ahead = np.array([np.cos(angle), np.sin(angle)])
        aside = rng.uniform(-0.02, 0.02) * np.array([-ahead[1], ahead[0]])
        start = block - _STANDOFF_M * ahead + aside
        stop = block + (distance - _CONTACT_M) * ahead + aside
        end = block + distance * ahead
        way = np.linspace(start, end, 4)
        if (
            _within(_HAND, start)
            and _within(_HAND, stop)
            and _within(_BLOCK, end)
            and np.linalg.norm(blocks[:, :2] - start, axis=1).min() > _FREE_M
            and np.linalg.norm(way - geometry.button[:2], axis=1).min() > _BUTTON_FREE_M
        ):
            return [
                Waypoint((*start.tolist(), _ABOVE), DOWN, CLOSED, 0.03),
                Waypoint((*start.tolist(), _LOW), DOWN, CLOSED, 0.012, 10),
                Waypoint((*stop.tolist(), _LOW), DOWN, CLOSED, 0.012, 15),
            ]
    return []


def _within(box: np.ndarray, point: np.ndarray) -> bool:
    return bool((box[0] <= point).all() and (point <= box[1]).all())
