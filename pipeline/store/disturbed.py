"""Images of a store as a model with distractors sees them."""

from collections.abc import Callable

import numpy as np

from pipeline.store.array_reader import ArrayReader
from wam.distractors import disturbed


class DisturbedReader:
    """Reads like :class:`ArrayReader`, for images uint8 [N, S, S, 3]."""

    def __init__(
        self,
        reader: ArrayReader,
        camera: int,
        episode_of_rows: Callable[[np.ndarray], np.ndarray],
        first_rows: np.ndarray,
        numbers: np.ndarray,
    ) -> None:
        """``first_rows`` int64 [E] of the episodes, and ``numbers`` [E] that tell them apart."""
        self._reader, self._camera = reader, camera
        self._episode_of_rows, self._first, self._numbers = episode_of_rows, first_rows, numbers
        self.shape, self.dtype = reader.shape, reader.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        """As :meth:`ArrayReader.__getitem__`."""
        start, _, _ = rows.indices(self.shape[0])
        return self._disturb(start, self._reader[rows])

    def copy(self, start: int, target: np.ndarray) -> None:
        """As :meth:`ArrayReader.copy`."""
        self._reader.copy(start, target)
        self._disturb(start, target)

    def _disturb(self, start: int, images: np.ndarray) -> np.ndarray:
        """``images``, which begin at row ``start``, in place."""
        rows = np.arange(start, start + len(images))
        episodes = self._episode_of_rows(rows)
        for place, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
            time = int(row - self._first[episode])
            images[place] = disturbed(
                images[place], int(self._numbers[episode]), time, self._camera
            )
        return images
