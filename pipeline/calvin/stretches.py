"""What is left of an episode without the frames that are missing or damaged."""

from dataclasses import dataclass

import numpy as np

Stretch = tuple[int, int]
"""Frame ids [start, stop)."""
SHORTEST = 64
"""Frames: the longest annotated window. What is shorter teaches next to nothing."""


@dataclass(frozen=True)
class DamagedEpisode:
    """An episode that was cut, or dropped, for its frames that are missing or invalid."""

    split: str
    episode: Stretch
    num_lost: int
    file: str
    """The first of the lost frames."""
    problem: str
    kept: list[Stretch]
    """The stretches that became episodes in its place; none is shorter than :data:`SHORTEST`."""

    def __str__(self) -> str:
        start, stop = self.episode
        used = sum(stop - start for start, stop in self.kept)
        return (
            f"{self.file}: {self.problem}; lost: {self.num_lost:,}. Of the episode of frames "
            f"{start} to {stop - 1} {used:,} of {stop - start:,} frames are used, in "
            f"{len(self.kept)} stretches of at least {SHORTEST}"
        )


def stretches(ids: np.ndarray) -> list[Stretch]:
    """Runs of consecutive ``ids``, which ascend: [3, 4, 7] => [(3, 5), (7, 8)]."""
    if not len(ids):
        return []
    last = np.flatnonzero(np.diff(ids) != 1)
    starts = ids[np.concatenate([[0], last + 1])]
    stops = ids[np.concatenate([last, [len(ids) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def long_enough(found: list[Stretch]) -> list[Stretch]:
    """Those of at least :data:`SHORTEST` frames."""
    return [(start, stop) for start, stop in found if stop - start >= SHORTEST]
