"""Batches from windows of frames (docs/algorithm.md 1.9), wherever the frames come from."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.batches.order import Windows
from pipeline.store.frames import Frames
from wam.actions import NULL_ACTION, executable
from wam.batch import Batch
from wam.config import ACTION_SIZE, IMAGE_SIZE, PROPRIO_SIZE
from wam.proprio import ProprioNormalizer


def assemble(
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
    rgb_static, rgb_gripper = _images(length, rows, pinned)
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
    views = len(windows.views)
    view_static, view_gripper = _images(views, rows, pinned)
    view_proprio = np.empty((views, rows, PROPRIO_SIZE), np.float32)
    static, gripper = view_static.numpy(), view_gripper.numpy()
    for view, rows_of_view in enumerate(windows.views.tolist()):
        for row, at in enumerate(rows_of_view):
            frames[row].rgb_static(at, static[view : view + 1, row])
            frames[row].rgb_gripper(at, gripper[view : view + 1, row])
            view_proprio[view, row] = frames[row].proprio[at]
    executed = executable(torch.from_numpy(actions))
    prev_action, action = executed[:-1].clone(), executed[1:].clone()
    first = torch.zeros(length, rows, dtype=torch.bool)
    first[0] = torch.from_numpy(windows.is_first)
    prev_action[first] = torch.tensor(NULL_ACTION)

    def kept(field: torch.Tensor) -> torch.Tensor:
        return field.pin_memory() if pinned else field

    return Batch(
        rgb_static,
        rgb_gripper,
        kept(torch.from_numpy(normalizer(proprio))),
        kept(prev_action),
        kept(action),
        kept(first),
        kept(torch.ones(length - 1, rows, dtype=torch.bool)),
        view_static,
        view_gripper,
        kept(torch.from_numpy(normalizer(view_proprio))),
    )


def _images(length: int, rows: int, pinned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for the images of both cameras."""
    shape = (length, rows, IMAGE_SIZE, IMAGE_SIZE, 3)
    static, gripper = (torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(2))
    return static, gripper
