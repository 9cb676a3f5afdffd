"""One split of a store with what its export adds."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.lerobot.features import Feature, features_of
from pipeline.lerobot.labels import Labels
from pipeline.store.open import Store


@dataclass(frozen=True)
class LeRobotSplit:
    """What becomes one data set. Its episodes are those of the store."""

    store: Store
    labels: Labels

    @cached_property
    def features(self) -> list[Feature]:
        """What the store's arrays become."""
        return features_of(self.store.arrays)

    @property
    def images(self) -> list[Feature]:
        return [feature for feature in self.features if feature.is_image]

    @property
    def vectors(self) -> list[Feature]:
        return [feature for feature in self.features if not feature.is_image]

    def read(self, feature: Feature, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of a feature: [T, *feature.shape]."""
        return feature.rows(self.store.read(feature.array, start, stop))

    def row_numbers(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The columns [T] that LeRobot requires of every data set, for rows [start, stop)."""
        rows = np.arange(start, stop)
        episode = self.store.episode_of_rows(rows)
        position = rows - self.store.episodes[episode, 0]
        return {
            "timestamp": (position / self.store.attrs["fps"]).astype(np.float32),
            "frame_index": position,
            "episode_index": episode,
            "index": rows,
            "task_index": self.labels.index[start:stop],
        }
