"""Cutting batches from frames (algorithm contract 1.9), wherever the frames come from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from pipeline.batches.order import Windows
from wam.actions import NULL_ACTION, executable
from wam.batch import Batch
from wam.config import ACTION_SIZE, IMAGE_SIZE, PROPRIO_SIZE
from wam.proprio import ProprioNormalizer

CopyRows = Callable[[int, np.ndarray], None]
"""``copy(start, target)`` copies the rows from ``start`` on over all rows of ``target``."""


class Frames(NamedTuple):
    """Consecutive frames, of which windows are cut; the names are the store's."""

    rgb_static: CopyRows
    """To uint8 [n, 64, 64, 3]."""
    rgb_gripper: CopyRows
    proprio: np.ndarray
    """float32 [N, 18], not normalised"""
    rel_actions: np.ndarray
    """float32 [N, 7]"""

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Frames":
        """The frames in arrays [N, ...] by name, of which nothing is copied."""
        return cls(
            partial(_copy_rows, arrays["rgb_static"]),
            partial(_copy_rows, arrays["rgb_gripper"]),
            arrays["proprio"],
            arrays["rel_actions"],
        )


def cut(
    frames: Sequence[Frames],
    windows: Windows,
    length: int,
    normalizer: ProprioNormalizer,
    *,
    pinned: bool = False,
) -> Batch:
    """The windows of ``length`` frames as CPU tensors, that of batch row ``b`` from ``frames[b]``.

    ``pinned`` memory is copied to a GPU while that computes. Windows must not cross an episode.
    """
    rows = len(frames)
    image = (length, rows, IMAGE_SIZE, IMAGE_SIZE, 3)
    rgb_static, rgb_gripper = (
        torch.empty(image, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)
    )
    static, gripper = rgb_static.numpy(), rgb_gripper.numpy()
    proprio = np.empty((length, rows, PROPRIO_SIZE), np.float32)
    # One row more: the action that led to the first frame.
    actions = np.zeros((length + 1, rows, ACTION_SIZE), np.float32)
    starts = windows.starts.tolist()
    for row, (source, start, is_first) in enumerate(
        zip(frames, starts, windows.is_first, strict=True)
    ):
        source.rgb_static(start, static[:, row])
        source.rgb_gripper(start, gripper[:, row])
        proprio[:, row] = source.proprio[start : start + length]
        actions[1:, row] = source.rel_actions[start : start + length]
        if not is_first:
            actions[0, row] = source.rel_actions[start - 1]
    executed = executable(torch.from_numpy(actions))
    prev_action, action = executed[:-1].clone(), executed[1:].clone()
    first = torch.zeros(length, rows, dtype=torch.bool)
    first[0] = torch.from_numpy(windows.is_first)
    prev_action[first] = torch.tensor(NULL_ACTION)
    small = [
        torch.from_numpy(normalizer(proprio)),
        prev_action,
        action,
        first,
        torch.ones(length - 1, rows, dtype=torch.bool),
    ]
    return Batch(
        rgb_static, rgb_gripper, *(field.pin_memory() if pinned else field for field in small)
    )


def _copy_rows(rows: np.ndarray, start: int, target: np.ndarray) -> None:
    target[...] = rows[start : start + len(target)]
