"""Batches for training the world model, read from the store (algorithm contract 1.9)."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self

import numpy as np
import torch

from pipeline.schema import CAMERAS
from pipeline.store import Store
from pipeline.windows import Position, Streams, fixed_windows
from wam.actions import NULL_ACTION, executable
from wam.batch import Batch
from wam.errors import WamError

_LOAD_FRAMES = 10_000


class _Rows:
    """The columns of a store from which windows are cut; the small ones always in RAM."""

    def __init__(self, store: Store, cache: Literal["ram", "none"]) -> None:
        self._store = store
        self._images = {name: _load(store, name) for name in CAMERAS} if cache == "ram" else {}
        self._proprio = store.proprio_normalizer()(store.read("proprio"))
        rel_actions = torch.from_numpy(store.read("rel_actions"))
        self._actions = executable(rel_actions).numpy()
        self._episode = store.episode_of_rows(np.arange(store.num_frames))

    def cut(self, starts: np.ndarray, window: int, is_first: np.ndarray) -> Batch:
        """The windows that begin at rows ``starts`` [B], as CPU tensors.

        ``is_first`` [B] tells which of them begin without a past.
        """
        rows = starts[None, :] + np.arange(window)[:, None]
        first = np.zeros(rows.shape, bool)
        first[0] = is_first
        prev_action = self._actions[np.maximum(rows - 1, 0)]
        prev_action[first] = NULL_ACTION
        episode = self._episode[rows]
        return Batch(
            rgb_static=self._cut_images("rgb_static", starts, window),
            rgb_gripper=self._cut_images("rgb_gripper", starts, window),
            proprio=torch.from_numpy(self._proprio[rows]),
            prev_action=torch.from_numpy(prev_action),
            action=torch.from_numpy(self._actions[rows]),
            is_first=torch.from_numpy(first),
            id_mask=torch.from_numpy(episode[1:] == episode[:-1]),
        )

    def _cut_images(self, name: str, starts: np.ndarray, window: int) -> torch.Tensor:
        shape = self._store.array(name).shape[1:]
        images = np.empty((window, len(starts), *shape), np.uint8)
        for column, start in enumerate(starts.tolist()):
            if self._images:
                images[:, column] = self._images[name][start : start + window]
            else:
                images[:, column] = self._store.read(name, start, start + window)
        return torch.from_numpy(images)


class StreamLoader:
    """Infinite iterator over :class:`Batch` [T, B] of contiguous streams (:class:`Streams`).

    ``cache="ram"`` holds both cameras' images of the split in memory (25 kB per frame), ``"none"``
    decodes every window from the store. A thread prepares the next ``prefetch`` batches. The order
    is a pure function of ``seed``; after ``load_state_dict`` exactly the batches follow that
    followed ``state_dict``. Raises WamError if the split has fewer windows than ``batch``.
    """

    def __init__(
        self,
        store: Store,
        batch: int,
        window: int,
        seed: int,
        *,
        cache: Literal["ram", "none"] = "ram",
        prefetch: int = 2,
    ) -> None:
        if cache not in ("ram", "none"):
            raise WamError(f"cache={cache!r}: expected 'ram' or 'none'")
        self._streams = Streams(store.episodes, batch, window, seed)
        self._rows = _Rows(store, cache)
        self._identity = {
            "seed": seed,
            "batch_rows": batch,
            "window": window,
            "source_digest": store.attrs["source_digest"],
        }
        self._prefetch = prefetch
        self._position = Position(0, 0)
        self._next_to_submit = self._position
        self._waiting: deque[Future[Batch]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream-loader")

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while len(self._waiting) <= self._prefetch:
            self._submit()
        batch = self._waiting.popleft().result()
        self._position = self._streams.following(self._position)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last batch that was handed out; JSON-like."""
        return {
            "epoch": self._position.epoch,
            "batch": self._position.batch,
            **self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where ``state`` was taken. Raises WamError if it belongs to another stream."""
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise WamError(
                    f"loader state: {name} is {state.get(name)!r}, this loader's is {value!r}; "
                    "a checkpoint continues only on the same data and settings"
                )
        while self._waiting:
            self._waiting.popleft().cancel()
        self._position = self._next_to_submit = Position(state["epoch"], state["batch"])

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self) -> None:
        position = self._next_to_submit
        starts = self._streams.starts(position.epoch)[position.batch]
        is_first = self._streams.is_first(position)
        self._next_to_submit = self._streams.following(position)
        window = self._streams.window
        self._waiting.append(self._thread.submit(self._rows.cut, starts, window, is_first))


def validation_windows(store: Store, window: int, count: int, seed: int) -> Batch:
    """``count`` fixed random windows [T, B=count] that never cross an episode, each without a past.

    Raises WamError if no episode is long enough.
    """
    starts = fixed_windows(store.episodes, window, count, seed)
    return _Rows(store, "none").cut(starts, window, np.ones(count, bool))


def _load(store: Store, name: str) -> np.ndarray:
    """A whole image array, piece by piece so that no second copy is ever needed."""
    images = np.empty(store.array(name).shape, np.uint8)
    for start in range(0, len(images), _LOAD_FRAMES):
        stop = min(start + _LOAD_FRAMES, len(images))
        images[start:stop] = store.read(name, start, stop)
    return images
