"""Images with what nobody does in them: other light, a camera that shakes, squares that drift.

A model that explains whole images spends itself on all of that; nothing of it tells what an action
does. Light and squares are an episode's own, the shaking is a frame's, and every camera has others;
all follow from the episode's number, so that an image is always disturbed in the same way, whether
it is read for training or seen at evaluation.
"""

import functools
from typing import NamedTuple

import numpy as np

DISTRACTORS_VERSION = 1
"""To be raised with every change of what images look like: decoded frames are kept on disk."""
_SHAKE = 2 / 64
"""Most of a displacement, as a share of the image's side."""
_SHAKES = 1024
"""So many frames until the shaking repeats itself."""
_SQUARES = 3
_SIDE = (6 / 64, 12 / 64)
_SPEED = (0.5 / 64, 2 / 64)
"""Per frame, in both directions."""

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class _Scene(NamedTuple):
    """What disturbs one camera in one episode."""

    colours: np.ndarray
    """float32 [3, 3], by which a pixel [3] is multiplied from the right"""
    shakes: np.ndarray
    """float64 [_SHAKES, 2], displacements as shares of the side"""
    sides: np.ndarray
    """float64 [_SQUARES], of the squares, as shares of the image's side"""
    places: np.ndarray
    """float64 [_SQUARES, 2], their upper left corners in the first frame, as shares of the way"""
    speeds: np.ndarray
    """float64 [_SQUARES, 2], per frame"""
    paints: np.ndarray
    """uint8 [_SQUARES, 3]"""


def disturbed(image: np.ndarray, episode: int, time: int, camera: int) -> np.ndarray:
    """A frame uint8 [S, S, 3] of ``camera`` (0 static, 1 gripper), ``time`` frames after the first
    of the ``episode`` with that number (at least 0), as a new array of the same shape."""
    scene = _scene(episode, camera)
    side = len(image)
    down, right = np.rint(scene.shakes[time % _SHAKES] * side).astype(int)
    margin = np.rint(_SHAKE * side).astype(int)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), "edge")
    shaken = padded[margin + down :][:side, margin + right :][:, :side]
    seen = np.rint(shaken.astype(np.float32) @ scene.colours).clip(0, 255).astype(np.uint8)
    for size, place, speed, paint in zip(
        scene.sides, scene.places, scene.speeds, scene.paints, strict=True
    ):
        # From one edge to the other and back.
        way = np.abs((place + speed * time + 1) % 2 - 1) * (1 - size)
        top, left = np.rint(way * side).astype(int)
        width = int(np.rint(size * side))
        seen[top : top + width, left : left + width] = paint
    return seen


@functools.lru_cache(maxsize=4096)
def _scene(episode: int, camera: int) -> _Scene:
    rng = np.random.default_rng([episode, camera])
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    colours = np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    direction = rng.choice((-1.0, 1.0), (_SQUARES, 2))
    return _Scene(
        colours.T.astype(np.float32),
        rng.uniform(-_SHAKE, _SHAKE, (_SHAKES, 2)),
        rng.uniform(*_SIDE, _SQUARES),
        rng.uniform(0, 1, (_SQUARES, 2)),
        direction * rng.uniform(*_SPEED, (_SQUARES, 2)),
        rng.integers(0, 256, (_SQUARES, 3), dtype=np.uint8),
    )
