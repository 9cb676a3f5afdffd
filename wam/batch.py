"""The batch that every reader delivers and the world model consumes (docs/algorithm.md 1.9)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from wam.config import IMAGE_SIZE, POSE_SIZE, PROPRIO_SIZE

_NO_IMAGES = torch.empty(0, 0, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
_NO_PROPRIO = torch.empty(0, 0, PROPRIO_SIZE)
_NO_LAG = torch.empty(0, 0, POSE_SIZE)


class Batch(NamedTuple):
    """A time-major batch of windows; T time, B batch rows, J other frames of each row's episode.

    ``prev_action[t]`` is the action that led to frame ``t`` (the null action where ``is_first``),
    ``action[t]`` the one executed after it.
    """

    rgb_static: torch.Tensor
    """uint8 [T, B, 64, 64, 3]"""
    rgb_gripper: torch.Tensor
    """uint8 [T, B, 64, 64, 3]"""
    proprio: torch.Tensor
    """float32 [T, B, 18], min-max normalised with training-split statistics"""
    prev_action: torch.Tensor
    """float32 [T, B, 7], relative, in [-1, 1]"""
    action: torch.Tensor
    """float32 [T, B, 7]"""
    is_first: torch.Tensor
    """bool [T, B], start of an episode or of a row that does not continue its predecessor"""
    id_mask: torch.Tensor
    """bool [T-1, B], frames t and t+1 are neighbours of one episode"""
    view_static: torch.Tensor = _NO_IMAGES
    """uint8 [J, B, 64, 64, 3], for models with ``view_reach``; J = 0 for others"""
    view_gripper: torch.Tensor = _NO_IMAGES
    """uint8 [J, B, 64, 64, 3]"""
    view_proprio: torch.Tensor = _NO_PROPRIO
    """float32 [J, B, 18], normalised likewise"""
    lag: torch.Tensor = _NO_LAG
    """float32 [1, B, 6], how far the hand is behind its target in the first frame of each row, in
    units of an action; empty: not told, as if it were at rest"""

    @property
    def first_lag(self) -> torch.Tensor | None:
        """float32 [B, 6] of :attr:`lag`; None where it is not told."""
        return self.lag[0] if len(self.lag) else None

    def split(self, rows: int) -> Iterator["Batch"]:
        """The batch in parts of ``rows`` batch rows, in order; the last one may have fewer."""
        for start in range(0, self.is_first.shape[1], rows):
            yield Batch(*(field[:, start : start + rows] for field in self))

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on ``device``."""
        return Batch(*(field.to(device, non_blocking=non_blocking) for field in self))
