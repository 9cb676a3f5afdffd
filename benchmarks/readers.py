"""Batches of windows as a training loop gets them: from our loaders, and from other engines.

Every reader is given the first rows of its windows. Those of tars cannot jump, so they deliver the
windows in the order in which tars are streamed.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numcodecs import Zstd
from torch.utils.data import DataLoader, Dataset

from engines import FIELDS, Engine, Windows
from pipeline.batches.assemble import assemble
from pipeline.batches.decoded import Cache
from pipeline.batches.from_shards import shard_batches
from pipeline.batches.from_store import store_frames
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.batches.order import Position
from pipeline.batches.order import Windows as GivenWindows
from pipeline.store.frames import Frames
from pipeline.store.open import Store
from pipeline.webdataset.read import SUFFIX, ShardSplit
from wam.batch import Batch
from wam.errors import WamError
from wam.proprio import ProprioNormalizer

Starts = Sequence[np.ndarray]
"""Of every batch the first rows of its windows, int64 [B]."""


class Reader(Protocol):
    def batches(self, starts: Starts, length: int) -> Iterator[Windows]:
        """Batches of windows of ``length`` frames, at least as many as ``starts`` has."""


class OwnStore:
    """Our loader on the store, with ``workers`` threads; 0: in the thread that asks."""

    def __init__(self, store: Store, cache: Cache, directory: Path, workers: int) -> None:
        self._frames = store_frames(store, cache, directory)
        self._normalizer = store.proprio_normalizer()
        self._delivery = Delivery(workers=workers)

    def batches(self, starts: Starts, length: int) -> Iterator[Windows]:
        make = partial(_assemble, self._frames, self._normalizer, length)
        with BatchLoader(_Given(starts), make, {}, self._delivery) as loader:
            for _ in starts:
                yield _by_window(next(loader))


class OwnShards:
    """Our loader on the tars, in a directory or behind a URL; goes on where it stopped."""

    def __init__(self, split: ShardSplit, workers: int) -> None:
        self._split = split
        self._delivery = Delivery(workers=workers)
        self._loaders: dict[tuple[int, int], BatchLoader[Any]] = {}

    def batches(self, starts: Starts, length: int) -> Iterator[Windows]:
        shape = (len(starts[0]), length)
        if shape not in self._loaders:
            self._loaders[shape] = shard_batches(
                self._split, batch=shape[0], window=length, seed=0, delivery=self._delivery
            )
        for _ in starts:
            yield _by_window(next(self._loaders[shape]))


class WithTorch:
    """An engine behind PyTorch's DataLoader with ``workers`` processes; 0: in this one."""

    def __init__(self, engine: Engine, workers: int) -> None:
        self._items: list[tuple[np.ndarray, int]] = []
        self._loader = DataLoader(
            _Items(engine), batch_size=None, sampler=self._items, **_processes(workers)
        )

    def batches(self, starts: Starts, length: int) -> Iterator[Windows]:
        self._items[:] = [(rows, length) for rows in starts]
        yield from self._loader


class WebDataset:
    """WebDataset's own loader on our tars; windows lie one after the other in a sample.

    ``shuffle`` is the number of tars and of windows that are held for shuffling, 0 for none.
    """

    def __init__(self, tars: Sequence[Path], shuffle: int, workers: int) -> None:
        self._tars = [str(path) for path in tars]
        self._shuffle = shuffle
        self._workers = workers
        self._loaders: dict[tuple[int, int], Any] = {}

    def batches(self, starts: Starts, length: int) -> Iterator[Windows]:
        shape = (len(starts[0]), length)
        if shape not in self._loaders:
            self._loaders[shape] = self._loader(*shape)
        delivered = 0
        while delivered < len(starts):
            before = delivered
            for windows in self._loaders[shape]:
                delivered += 1
                yield windows
            if delivered == before:
                raise WamError(f"{shape[0]} windows of {length} frames: the tars hold fewer")

    def _loader(self, rows: int, length: int) -> Any:
        import webdataset

        data = webdataset.WebDataset(
            self._tars,
            shardshuffle=self._shuffle or False,
            empty_check=False,
            select_files=_is_read,
            seed=0,
        )
        data = data.compose(partial(_cut, length)).shuffle(self._shuffle)
        data = data.batched(rows, collation_fn=_side_by_side, partial=False)
        return webdataset.WebLoader(data, batch_size=None, **_processes(self._workers))


def _processes(workers: int) -> dict[str, Any]:
    """Arguments of a DataLoader: worker processes that stay, and share no library's threads."""
    if not workers:
        return {"num_workers": 0}
    return {
        "num_workers": workers,
        "persistent_workers": True,
        "multiprocessing_context": "spawn",
    }


@dataclass(frozen=True)
class _Given:
    """The order of windows that are given, again and again."""

    starts: Starts

    def num_batches(self, epoch: int) -> int:
        return len(self.starts)

    def item(self, position: Position) -> GivenWindows:
        rows = self.starts[position.batch]
        return GivenWindows(rows, np.ones(len(rows), bool))


class _Items(Dataset[Windows]):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, item: tuple[np.ndarray, int]) -> Windows:
        return self._engine.read(*item)


def _assemble(
    frames: Frames, normalizer: ProprioNormalizer, length: int, windows: GivenWindows
) -> Batch:
    return assemble([frames] * len(windows.starts), windows, length, normalizer)


def _by_window(batch: Batch) -> Windows:
    fields = {
        "rgb_static": batch.rgb_static,
        "rgb_gripper": batch.rgb_gripper,
        "proprio": batch.proprio,
        "rel_actions": batch.action,
    }
    return {name: field.transpose(0, 1) for name, field in fields.items()}


def _is_read(name: str) -> bool:
    return name.partition(".")[2].removesuffix(SUFFIX) in FIELDS


def _cut(length: int, samples: Iterator[dict[str, Any]]) -> Iterator[Windows]:
    codec = Zstd()
    for sample in samples:
        arrays = {name: np.load(io.BytesIO(codec.decode(sample[name + SUFFIX]))) for name in FIELDS}
        for start in range(0, len(arrays["proprio"]) - length + 1, length):
            yield {name: rows[start : start + length] for name, rows in arrays.items()}


def _side_by_side(windows: Sequence[Windows]) -> Windows:
    return {name: torch.from_numpy(np.stack([one[name] for one in windows])) for name in FIELDS}
