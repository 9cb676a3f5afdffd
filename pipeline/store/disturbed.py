"""Images of a store as a model with distractors sees them."""

import numpy as np

from pipeline.store.array_reader import ArrayReader
from wam.distractors import disturbed


class DisturbedReader:
    """Reads like :class:`ArrayReader`, for images uint8 [N, S, S, 3]."""

    def __init__(
        self, reader: ArrayReader, camera: int, episodes: np.ndarray, numbers: np.ndarray
    ) -> None:
        """``episodes`` int64 [E, 2] rows [start, stop), and ``numbers`` [E] that tell them apart
        in all splits."""
        self._reader, self._camera = reader, camera
        self._first, self._numbers = episodes[:, 0], numbers
        self.shape, self.dtype = reader.shape, reader.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, _, _ = rows.indices(self.shape[0])
        return self._disturb(start, self._reader[rows])

    def copy(self, start: int, target: np.ndarray) -> None:
        """As :meth:`ArrayReader.copy`."""
        self._reader.copy(start, target)
        self._disturb(start, target)

    def _disturb(self, start: int, images: np.ndarray) -> np.ndarray:
        """``images``, which begin at row ``start``, in place."""
        rows = np.arange(start, start + len(images))
        episodes = np.searchsorted(self._first, rows, side="right") - 1
        for place, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
            time = int(row - self._first[episode])
            images[place] = disturbed(
                images[place], int(self._numbers[episode]), time, self._camera
            )
        return images
