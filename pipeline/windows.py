"""Which rows every training batch holds: contiguous streams and fixed validation windows.

Streams (algorithm contract 1.6): each batch row walks its own part of the play data, one window
after the other, so that the recurrent state can be carried from batch to batch. Every epoch lays
the windows anew, with a random phase per episode, so that all frames take part.
"""

from dataclasses import dataclass

import numpy as np

from wam.errors import WamError


@dataclass(frozen=True)
class Position:
    """The next batch of a stream."""

    epoch: int
    batch: int


class Streams:
    """The order of all windows, as a pure function of (seed, epoch).

    ``episodes`` is int64 [E, 2], rows [start, stop). Windows never cross an episode. Raises
    WamError if there are fewer windows than batch rows.
    """

    def __init__(self, episodes: np.ndarray, batch: int, window: int, seed: int) -> None:
        self.episodes = np.asarray(episodes, np.int64)
        self.batch, self.window, self.seed = batch, window, seed
        lengths = self.episodes[:, 1] - self.episodes[:, 0]
        # One window fewer than this when a phase is drawn that pushes the last one out.
        fewest = int(np.maximum((lengths - window + 1) // window, lengths >= window).sum())
        if fewest < batch:
            raise WamError(
                f"train_world_model.batch={batch}: the data hold only {fewest} windows of "
                f"{window} frames; lower train_world_model.batch or window, or collect more frames"
            )
        self._laid: dict[int, np.ndarray] = {}

    def starts(self, epoch: int) -> np.ndarray:
        """int64 [batches, B]: first row of every window of an epoch.

        Consecutive batches continue each other in every column, except where an episode ends. Every
        window is used once, but for the remainder that does not fill a batch.
        """
        if epoch not in self._laid:
            # A reader that prefetches needs two epochs at their edge.
            self._laid = {known: self._laid[known] for known in self._laid if known == epoch - 1}
            self._laid[epoch] = self._lay(epoch)
        return self._laid[epoch]

    def is_first(self, position: Position) -> np.ndarray:
        """bool [B]: the row's window does not continue the row's previous one.

        True at the start of an epoch and of an episode.
        """
        starts = self.starts(position.epoch)
        if position.batch == 0:
            return np.ones(self.batch, bool)
        now = starts[position.batch]
        continues = now == starts[position.batch - 1] + self.window
        return ~continues | np.isin(now, self.episodes[:, 0])

    def following(self, position: Position) -> Position:
        """The position one batch later."""
        if position.batch + 1 < len(self.starts(position.epoch)):
            return Position(position.epoch, position.batch + 1)
        return Position(position.epoch + 1, 0)

    def _lay(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        lengths = self.episodes[:, 1] - self.episodes[:, 0]
        # Any phase below the window's length, as long as one window still fits.
        phases = rng.integers(0, np.clip(lengths - self.window + 1, 1, self.window))
        windows = np.concatenate(
            [
                np.arange(start + phase, stop - self.window + 1, self.window)
                for (start, stop), phase in zip(self.episodes.tolist(), phases, strict=True)
            ]
        )
        windows = np.roll(windows, -int(rng.integers(len(windows))))
        num_batches = len(windows) // self.batch
        return windows[: num_batches * self.batch].reshape(self.batch, num_batches).T


def fixed_windows(episodes: np.ndarray, window: int, count: int, seed: int) -> np.ndarray:
    """int64 [count]: first rows of random windows that never cross an episode.

    All possible windows are equally likely; none is drawn twice while there are enough of them.
    Raises WamError if no episode is long enough.
    """
    starts = np.concatenate(
        [np.arange(start, stop - window + 1) for start, stop in np.asarray(episodes).tolist()]
        or [np.empty(0, np.int64)]
    )
    if len(starts) == 0:
        raise WamError(f"window={window}: longer than every episode of the split")
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(starts, count, replace=count > len(starts)))
