"""Which rows every training batch holds, as a pure function of (seed, epoch).

Streams (docs/algorithm.md 1.6): each batch row walks its own part of the play data, one window
after the other, so that the recurrent state can be carried from batch to batch. Random windows:
every possible window once per epoch. Tar windows: the play data in the order in which whole tars
are streamed. No window ever crosses an episode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from wam.errors import WamError

_TARS_AHEAD = 2
"""Announced before they are needed, so that fetching them takes place meanwhile."""
_EPOCHS_KEPT = 2
"""A reader that works ahead needs two epochs at their edge."""


@dataclass(frozen=True)
class Position:
    """The next batch of a reader."""

    epoch: int
    batch: int


class Views(NamedTuple):
    """Frames that are shown beside every window."""

    per_window: int
    reach: int
    """They are of the same episode, at most so many frames before or behind the window."""


NO_VIEWS = Views(0, 0)


class Windows(NamedTuple):
    """The windows of one batch."""

    starts: np.ndarray
    """int64 [B], first rows."""
    is_first: np.ndarray
    """bool [B], the window does not continue the same batch row's previous one."""
    views: np.ndarray = np.zeros((0, 0), np.int64)
    """int64 [J, B], rows of the frames that are shown beside each."""


class Streams:
    """Contiguous windows: consecutive batches continue each other in every batch row.

    ``episodes`` is int64 [E, 2], rows [start, stop). Every epoch lays the windows anew, with a
    random phase per episode, so that all frames take part. With ``keeps_state`` a row that jumps
    into the middle of another episode counts as its own continuation, as in the reference
    (docs/algorithm.md 1.6). Raises WamError if there are fewer windows than batch rows.
    """

    def __init__(
        self,
        episodes: np.ndarray,
        batch: int,
        window: int,
        seed: int,
        *,
        keeps_state: bool = False,
        views: Views = NO_VIEWS,
    ) -> None:
        self._keeps_state = keeps_state
        self._episodes = np.asarray(episodes, np.int64)
        self._batch, self._window, self._seed, self._views = batch, window, seed, views
        _check_enough(int(fewest_windows(self._episodes, window).sum()), batch, window)
        self.starts = lru_cache(_EPOCHS_KEPT)(self._lay)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self.starts(epoch))

    def item(self, position: Position) -> Windows:
        """The windows of a batch; without a past at the start of an epoch and of an episode."""
        starts = self.starts(position.epoch)
        now = starts[position.batch]
        views = _lay_views(self._episodes, now, self._window, self._views, self._seed, position)
        if position.batch == 0:
            return Windows(now, np.ones(len(now), bool), views)
        continues = now == starts[position.batch - 1] + self._window
        jumps = ~continues & (not self._keeps_state)
        return Windows(now, jumps | np.isin(now, self._episodes[:, 0]), views)

    def _lay(self, epoch: int) -> np.ndarray:
        """int64 [batches, B]: first row of every window of an epoch, each used once.

        Left out is the remainder that does not fill a batch.
        """
        rng = np.random.default_rng([self._seed, epoch])
        windows = _lay_windows(self._episodes, self._window, rng)
        windows = np.roll(windows, -int(rng.integers(len(windows))))
        num_batches = len(windows) // self._batch
        return windows[: num_batches * self._batch].reshape(self._batch, num_batches).T


class RandomWindows:
    """All windows that lie inside an episode, overlapping or not, in random order.

    An epoch holds every window once, but for a random remainder that does not fill a batch.
    Arguments and errors are those of :class:`Streams`.
    """

    def __init__(
        self,
        episodes: np.ndarray,
        batch: int,
        window: int,
        seed: int,
        *,
        views: Views = NO_VIEWS,
    ) -> None:
        self._all = all_windows(episodes, window)
        self._episodes, self._window, self._views = np.asarray(episodes, np.int64), window, views
        self._batch, self._seed = batch, seed
        _check_enough(len(self._all), batch, window)
        self._order = lru_cache(_EPOCHS_KEPT)(self._shuffle)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self._all) // self._batch

    def item(self, position: Position) -> Windows:
        """The windows of a batch; none has a past."""
        first = position.batch * self._batch
        starts = self._order(position.epoch)[first : first + self._batch]
        views = _lay_views(self._episodes, starts, self._window, self._views, self._seed, position)
        return Windows(starts, np.ones(len(starts), bool), views)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self._all)


class TarItem(NamedTuple):
    """The windows of one batch in tars."""

    tars: np.ndarray
    """int64 [B], numbers of the tars."""
    starts: np.ndarray
    """int64 [B], first rows."""
    finished: frozenset[int]
    """Tars that no later batch of the epoch needs."""
    coming: tuple[int, ...]
    """The next tars of the epoch that no batch up to this one has needed."""


class TarWindows:
    """Windows in the order in which tars are streamed, for one of ``world_size`` ranks.

    ``runs[i]`` is int64 [R, 2], the rows [start, stop) of tar ``i`` that follow each other in one
    episode. Every epoch draws an order of the tars, deals them out to the ranks, lays windows with
    a random phase and shuffles those of ``shuffle_tars`` neighbouring tars: so few tars need to be
    open at a time, and they are opened one after the other. All ranks have equally many batches of
    ``batch`` windows. Raises WamError if a rank may get fewer windows than that.
    """

    def __init__(
        self,
        runs: Sequence[np.ndarray],
        batch: int,
        window: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle_tars: int = 8,
    ) -> None:
        self._runs = runs
        self._batch, self._window, self._seed = batch, window, seed
        self._rank, self._world_size, self._shuffle_tars = rank, world_size, shuffle_tars
        counts = np.sort([fewest_windows(tar, window).sum() for tar in runs])
        fewest = int(counts[: len(runs) // world_size].sum())
        if fewest < batch:
            raise WamError(
                f"train_world_model.batch: a rank needs {batch} windows of {window} frames, but "
                f"{len(runs)} tars dealt out to {world_size} ranks may hold only {fewest} for one; "
                "lower train_world_model.batch or window, or export.sequences_per_shard"
            )
        self._epoch = lru_cache(_EPOCHS_KEPT)(self._lay)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        return len(self._epoch(epoch))

    def item(self, position: Position) -> TarItem:
        """The windows of a batch; none has a past."""
        return self._epoch(position.epoch)[position.batch]

    def _lay(self, epoch: int) -> list[TarItem]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._runs))
        # Every rank lays the windows of all, so as to know how many batches the others have.
        windows = [_lay_windows(self._runs[tar], self._window, rng) for tar in order]
        counts = np.array([len(starts) for starts in windows])
        ranks = np.arange(len(order)) % self._world_size
        totals = np.bincount(ranks, counts, self._world_size)
        num_batches = int(totals.min()) // self._batch
        own = np.flatnonzero(ranks == self._rank)
        place = np.repeat(np.arange(len(own)), counts[own])
        shuffled = np.argsort(place + self._shuffle_tars * rng.random(len(place)))
        shuffled = shuffled[: num_batches * self._batch].reshape(num_batches, self._batch)
        tars = order[own][place[shuffled]]
        starts = np.concatenate([windows[i] for i in own])[shuffled]
        last = {tar: batch for batch, row in enumerate(tars.tolist()) for tar in row}
        finished: list[set[int]] = [set() for _ in range(num_batches)]
        for tar, batch in last.items():
            finished[batch].add(tar)
        opened = list(dict.fromkeys(tars.ravel().tolist()))  # in the order of their first use
        place_opened = np.zeros(len(self._runs), np.int64)
        place_opened[opened] = np.arange(len(opened))
        coming = np.maximum.accumulate(place_opened[tars].max(axis=1)) + 1
        return [
            TarItem(*item[:2], frozenset(item[2]), tuple(opened[item[3] : item[3] + _TARS_AHEAD]))
            for item in zip(tars, starts, finished, coming.tolist(), strict=True)
        ]


def all_windows(episodes: np.ndarray, window: int) -> np.ndarray:
    """int64 [W]: first rows of all windows that lie inside an episode, ascending."""
    return np.concatenate(
        [np.empty(0, np.int64)]
        + [np.arange(start, stop - window + 1) for start, stop in np.asarray(episodes).tolist()]
    )


def fixed_windows(episodes: np.ndarray, window: int, count: int, seed: int) -> np.ndarray:
    """int64 [count]: first rows of random windows that never cross an episode, ascending.

    All possible windows are equally likely; none is drawn twice while there are enough of them.
    Raises WamError if no episode is long enough.
    """
    starts = all_windows(episodes, window)
    if len(starts) == 0:
        raise WamError(f"window={window}: longer than every episode of the split")
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(starts, count, replace=count > len(starts)))


def fewest_windows(runs: np.ndarray, window: int) -> np.ndarray:
    """int64 [R]: windows that fit one after the other into rows [start, stop), whatever the phase.

    One fewer than without a phase where there is one that pushes the last window out.
    """
    lengths = runs[:, 1] - runs[:, 0]
    return np.maximum((lengths - window + 1) // window, lengths >= window)


def _lay_windows(runs: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [W]: windows one after the other in every run, from a random phase on."""
    lengths = runs[:, 1] - runs[:, 0]
    # Any phase below the window's length, as long as one window still fits.
    phases = rng.integers(0, np.clip(lengths - window + 1, 1, window))
    return np.concatenate(
        [
            np.arange(start + phase, stop - window + 1, window)
            for (start, stop), phase in zip(runs.tolist(), phases, strict=True)
        ]
    )


def _lay_views(
    episodes: np.ndarray,
    starts: np.ndarray,
    window: int,
    views: Views,
    seed: int,
    position: Position,
) -> np.ndarray:
    """int64 [J, B]: random rows of the windows' episodes, within reach."""
    if not views.per_window:
        return np.zeros((0, len(starts)), np.int64)
    own = episodes[np.searchsorted(episodes[:, 0], starts, side="right") - 1]
    low = np.maximum(own[:, 0], starts - views.reach)
    high = np.minimum(own[:, 1], starts + window + views.reach)
    # Not 0 at the end: that would be the stream that lays the epoch.
    rng = np.random.default_rng([seed, position.epoch, 1 + position.batch])
    return rng.integers(low, high, (views.per_window, len(starts)))


def _check_enough(windows: int, batch: int, window: int) -> None:
    if not windows:
        raise WamError(
            f"train_world_model.window={window}: longer than every episode of the data; lower it, "
            "or collect longer episodes"
        )
    if windows < batch:
        raise WamError(
            f"train_world_model.batch={batch}: the data hold only {windows} windows of "
            f"{window} frames; lower train_world_model.batch or window, or collect more frames"
        )
