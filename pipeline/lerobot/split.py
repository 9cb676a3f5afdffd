"""One split of a store with what its export adds: LeRobot's names, and a task for every frame.

LeRobot knows one sentence per frame; play has windows that overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from pipeline import console
from pipeline.calvin.language import Annotation
from pipeline.lerobot.features import ROW_NUMBERS, Feature, features_of
from pipeline.store.open import Store

PLAY = "play"
"""The task of frames outside every annotated window."""


@dataclass(frozen=True, eq=False)
class LeRobotSplit:
    """What becomes one data set. Its episodes are those of the store."""

    store: Store
    tasks: list[str]
    """:data:`PLAY`, then the sentences in the order of the annotations."""
    task_index: np.ndarray
    """int64 [N]: place in ``tasks`` of every row's task."""

    @classmethod
    def of(cls, store: Store, annotations: Sequence[Annotation]) -> Self:
        """``store`` with the sentence of the window that a frame lies in, or :data:`PLAY`.

        Where windows overlap, a frame belongs to the one that ends first: its task is done first.
        Of windows with the same end, the first annotation counts. Windows that do not lie inside
        one stored episode are left out.
        """
        ids = np.array([(a.start, a.stop - 1) for a in annotations], np.int64).reshape(-1, 2)
        rows = np.minimum(np.searchsorted(store.frame_ids, ids), store.num_frames - 1)
        episodes = store.episode_of_rows(rows)
        is_stored = (store.frame_ids[rows] == ids).all(1) & (episodes[:, 0] == episodes[:, 1])
        if not is_stored.all():
            console.warn(
                f"{store.path}: {(~is_stored).sum()} of {len(annotations)} annotated windows do "
                "not lie inside one stored episode and are left out"
            )
        windows = [
            (*rows[at].tolist(), annotations[at].sentence)
            for at in np.flatnonzero(is_stored).tolist()
        ]
        tasks = list(dict.fromkeys([PLAY, *(sentence for *_, sentence in windows)]))
        task_index = np.zeros(store.num_frames, np.int64)
        # The last to be written counts; sorting is stable.
        for first, last, sentence in sorted(reversed(windows), key=lambda window: -window[1]):
            task_index[first : last + 1] = tasks.index(sentence)
        return cls(store, tasks, task_index)

    @cached_property
    def features(self) -> list[Feature]:
        """What the store's arrays become."""
        return features_of(self.store.arrays)

    @property
    def columns(self) -> list[Feature]:
        """All that a data set has of every frame."""
        return [*self.features, *ROW_NUMBERS]

    @property
    def images(self) -> list[Feature]:
        return [column for column in self.columns if column.is_image]

    @property
    def vectors(self) -> list[Feature]:
        return [column for column in self.columns if not column.is_image]

    def read(self, column: Feature, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a column: [T, *column.shape]."""
        if column not in ROW_NUMBERS:
            return column.rows(self.store.read(column.array, start, stop))
        rows = np.arange(start, stop)
        episode = self.store.episode_of_rows(rows)
        position = rows - self.store.episodes[episode, 0]
        numbers = {
            "timestamp": (position / self.store.attrs["fps"]).astype(np.float32),
            "frame_index": position,
            "episode_index": episode,
            "index": rows,
            "task_index": self.task_index[start:stop],
        }
        return numbers[column.key][:, None]
