"""Features with labels of success, by the frame and by the window.

Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from wam.config import CHUNK
from wam.reward.classifier import hand


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


def held_back(data: LabelledFeatures, every: int = 5) -> tuple[LabelledFeatures, LabelledFeatures]:
    """The windows of ``data`` without every fifth one, and those."""
    chosen = torch.arange(len(data.length)) % every == every - 1

    def part(windows: torch.Tensor) -> LabelledFeatures:
        rows = windows.repeat_interleave(data.length)
        kept = data.real[:, rows], data.imagined[:, rows], data.label[rows], data.length[windows]
        return LabelledFeatures(*kept)

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


def decisions(
    values: torch.Tensor, label: torch.Tensor, length: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Label [K] and ``values`` [S, K] of every window after each fourth frame, as PPO asks."""
    first = 0
    for frames in length.tolist():
        asked = slice(first + CHUNK, first + frames, CHUNK)
        yield label[asked], values[:, asked]
        first += frames
