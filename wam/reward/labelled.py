"""Features with labels of success, by the frame and by the window.

Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from wam.config import CHUNK
from wam.reward.classifier import hand
from wam.stretches import stretches


class LabelledFeatures(NamedTuple):
    """Latents of demonstrations with a success label per frame."""

    real: torch.Tensor
    """float32 [S, N, F], posterior features"""
    imagined: torch.Tensor
    """float32 [S, N, F], prior roll-outs with the same actions"""
    label: torch.Tensor
    """bool [N]"""
    length: torch.Tensor
    """int64 [D], frames per demonstration"""
    start: torch.Tensor
    """int64 [D], row of each one's first frame in the play that all are cut from"""


def held_back(data: LabelledFeatures, every: int = 5) -> tuple[LabelledFeatures, LabelledFeatures]:
    """The windows of ``data`` without those of every fifth stretch of play, and those.

    No window of one part shares a frame with one of the other.
    """
    chosen = stretches(data.start, data.start + data.length) % every == every - 1

    def part(windows: torch.Tensor) -> LabelledFeatures:
        rows = windows.repeat_interleave(data.length)
        return LabelledFeatures(
            data.real[:, rows],
            data.imagined[:, rows],
            data.label[rows],
            data.length[windows],
            data.start[windows],
        )

    return part(~chosen), part(chosen)


def success_places(data: LabelledFeatures) -> torch.Tensor:
    """Hands [P, 3] in the first frames of every success, as many as a decision has steps."""
    return torch.cat(
        [
            hand(data.real[0, success : min(success + CHUNK, stop)])
            for _, success, stop in successes(data.label, data.length)
        ]
    )


def successes(label: torch.Tensor, length: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """First row, first success and end of every demonstration that has a success."""
    first = 0
    for frames in label.split(length.tolist()):
        if frames.any():
            yield first, first + int(frames.int().argmax()), first + len(frames)
        first += len(frames)


class Decisions(NamedTuple):
    """A window after each fourth frame, as PPO asks."""

    label: torch.Tensor
    """bool [K]"""
    before: torch.Tensor
    """bool [K], by more than a decision before the first success: a dream that is ahead by less is
    not wrong"""
    values: torch.Tensor
    """[S, K]"""

    @property
    def kind(self) -> bool | None:
        """Whether success is to be found; None where it comes behind the last decision."""
        if self.label.any():
            return True
        return False if self.before.all() else None


def decisions(
    values: torch.Tensor, label: torch.Tensor, length: torch.Tensor
) -> Iterator[Decisions]:
    """What is asked of every window, with ``values`` [S, N] there."""
    first = 0
    for frames, done in zip(length.tolist(), label.split(length.tolist()), strict=True):
        asked = torch.arange(0, frames, CHUNK)[1:]
        success = int(done.int().argmax()) if done.any() else frames + CHUNK
        yield Decisions(done[asked], asked < success - CHUNK, values[:, first + asked])
        first += frames
