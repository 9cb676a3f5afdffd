"""A small world model and a small world for it: a square that moves as commanded."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from wam.batch import Batch
from wam.config import WorldModelConfig
from wam.world_model.model import WorldModel

TINY = WorldModelConfig(
    cnn_depth=4,
    visual_embedding=32,
    decoder_channels=32,
    deter=32,
    stoch=4,
    classes=4,
    hidden=32,
    id_hidden=(32, 32),
)


@pytest.fixture
def tiny_config() -> WorldModelConfig:
    return TINY


@pytest.fixture
def tiny_model() -> WorldModel:
    return WorldModel(TINY, seed=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class SquareWorld:
    """Endless windows of rows that continue each other; the action moves a square.

    A dark background with a gradient, a red square in the static view and a blue one, mirrored, in
    the wrist view; the seventh action dimension switches the square's brightness.
    """

    def __init__(self, batch: int, window: int, seed: int = 0) -> None:
        self._batch, self._window, self._seed = batch, window, seed
        self._count = 0

    def __iter__(self) -> "SquareWorld":
        return self

    def __next__(self) -> Batch:
        rng = np.random.default_rng([self._seed, self._count])
        self._count += 1
        t, b = self._window, self._batch
        action = rng.uniform(-1, 1, (t, b, 7)).astype(np.float32)
        action[..., 6] = np.where(action[..., 6] >= 0, 1, -1)
        position = np.empty((t, b, 2))
        position[0] = rng.uniform(16, 48, (b, 2))
        for step in range(1, t):
            moved = position[step - 1] + 8 * action[step - 1, :, :2]
            position[step] = np.clip(moved, 8, 56)
        bright = np.concatenate([np.ones((1, b)), action[:-1, :, 6]])
        proprio = np.zeros((t, b, 18), np.float32)
        proprio[..., :2] = position / 64
        proprio[..., 17] = (bright + 1) / 2
        prev_action = np.concatenate([np.zeros((1, b, 7), np.float32), action[:-1]])
        is_first = np.zeros((t, b), bool)
        is_first[0] = True
        return Batch(
            rgb_static=torch.from_numpy(_draw(position, bright, 0)),
            rgb_gripper=torch.from_numpy(_draw(64 - position, bright, 2)),
            proprio=torch.from_numpy(proprio),
            prev_action=torch.from_numpy(prev_action),
            action=torch.from_numpy(action),
            is_first=torch.from_numpy(is_first),
            id_mask=torch.ones(t - 1, b, dtype=torch.bool),
        )

    def state_dict(self) -> dict[str, int]:
        return {"count": self._count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._count = state["count"]


@pytest.fixture
def square_world() -> Callable[..., SquareWorld]:
    return SquareWorld


def _draw(position: np.ndarray, bright: np.ndarray, channel: int) -> np.ndarray:
    """uint8 [T, B, 64, 64, 3]"""
    grid = np.arange(64)
    inside = np.abs(grid - position[..., None]) < 10
    mask = inside[..., 1, :, None] & inside[..., 0, None, :]
    image = np.empty((*position.shape[:2], 64, 64, 3), np.uint8)
    image[...] = grid[:, None, None]
    image[..., channel] = np.where(
        mask, np.where(bright > 0, 255, 120)[..., None, None], image[..., channel]
    )
    return image
