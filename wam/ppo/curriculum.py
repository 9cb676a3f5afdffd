"""Start states of imagined episodes that move back from the end of demonstrations to their start.

A task that a policy never accomplishes gives no advantage to learn from; close to the success it
does (docs/algorithm.md 9.1).
Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, F feature.
"""

import math

import torch

from wam.errors import WamError

LATEST_START = 0.8
"""Where the first iteration's earliest starts are, as a share of the way to the success."""


class StartCurriculum:
    """Demonstration frames to start from, a function of the iteration alone.

    While it is active, these are the frames from a share of the way to the demonstration's first
    success on, up to the frame before it. The share falls linearly from ``LATEST_START`` to 0.
    """

    def __init__(
        self,
        posterior: torch.Tensor,
        label: torch.Tensor,
        length: torch.Tensor,
        iterations: float,
    ) -> None:
        """A curriculum over so many ``iterations`` on ``posterior`` [S, N, F].

        ``label`` bool [N] tells success, ``length`` int64 [D] are the frames of each demonstration.
        Raises WamError if no demonstration has a frame before its success.
        """
        self._posterior, self._iterations = posterior, iterations
        self._ways = ways_to_success(label, length)
        if not self._ways:
            raise WamError(
                "finetune.start_curriculum: no training demonstration has a success with a frame "
                "before it; use 0, or other demonstrations"
            )

    def position(self, iteration: int) -> float | None:
        """The share of the way before which no episode starts; None once the curriculum is over."""
        if iteration >= self._iterations:
            return None
        return LATEST_START * (1 - iteration / self._iterations)

    def starts(self, position: float) -> torch.Tensor:
        """Features [M, F] of all frames between ``position`` and the success, in every draw."""
        rows = [
            torch.arange(first + min(math.ceil(position * (stop - first)), stop - first - 1), stop)
            for first, stop in self._ways
        ]
        return self._posterior[:, torch.cat(rows).to(self._posterior.device)].flatten(0, 1)


def ways_to_success(label: torch.Tensor, length: torch.Tensor) -> list[tuple[int, int]]:
    """Frames [first, first success) of each demonstration; those without any are left out."""
    ways, first = [], 0
    for frames in label.split(length.tolist()):
        if frames.any() and not frames[0]:
            ways.append((first, first + int(frames.int().argmax())))
        first += len(frames)
    return ways
