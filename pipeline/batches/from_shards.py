"""Batches for training the world model, streamed from the WebDataset shards.

The tars of an epoch are read one after the other; a few are in memory at a time, of which windows
are cut. Nothing but the export is needed, which may be remote.
"""

import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import manifests
from pipeline.batches.assemble import assemble
from pipeline.batches.decoded import Cache, announce, cache_file, joined, memory_mapped
from pipeline.batches.loader import ONE_WORKER, BatchLoader, Delivery
from pipeline.batches.order import Position, TarWindows, Windows, fixed_windows
from pipeline.store.frames import Frames
from pipeline.webdataset.read import ShardSplit, Tar
from wam.batch import Batch


def shard_batches(
    split: ShardSplit,
    *,
    batch: int,
    window: int,
    seed: int,
    cache: Cache = "none",
    cache_directory: Path | None = None,
    shuffle_tars: int = 8,
    delivery: Delivery = ONE_WORKER,
) -> BatchLoader["_Item"]:
    """Batches of ``batch`` rows over all ranks, in the order of :class:`TarWindows`.

    Without a cache every rank fetches its tars once per epoch, and holds about ``shuffle_tars`` of
    them. ``ram`` keeps all tars decoded once they were fetched, ``memmap`` in files below
    ``cache_directory``. Raises WamError if there are too few tars for that many batch rows.
    """
    rows = delivery.rows(batch)
    order = TarWindows(
        [tar.runs for tar in split.tars],
        rows,
        window,
        seed,
        rank=delivery.rank,
        world_size=delivery.world_size,
        shuffle_tars=shuffle_tars,
    )
    normalizer = split.proprio_normalizer()
    first_rows = np.array([tar.start for tar in split.tars])

    def load(number: int) -> Frames:
        tar = split.tars[number]
        if cache != "memmap":
            return split.frames(tar)
        path = cache_file(cache_directory, Path(tar.name).stem, tar.digest)
        return memory_mapped(path, tar.stop - tar.start, lambda: split.frames(tar))

    def make(item: _Item) -> Batch:
        frames = [tar.frames() for tar in item.tars]
        windows = Windows(item.starts - first_rows[item.numbers], np.ones(rows, bool))
        return assemble(frames, windows, window, normalizer, pinned=delivery.pinned)

    if cache != "none":
        announce(split.tars[-1].stop, "memory" if cache == "ram" else str(cache_directory))
    identity = {
        "reader": "shards",
        "seed": seed,
        "batch_rows": batch,
        "window": window,
        "shuffle_tars": shuffle_tars,
        "world_size": delivery.world_size,
        "source_digest": manifests.digest([tar.digest for tar in split.tars]),
    }

    def expect(number: int) -> None:
        if cache != "memmap":  # whose file may be there already
            split.expect(split.tars[number])

    opened = _OpenTars(order, load, expect, keep=cache != "none")
    return BatchLoader(opened, make, identity, delivery)


def shard_validation_windows(split: ShardSplit, window: int, count: int, seed: int) -> Batch:
    """The windows that :func:`from_store.validation_windows` cuts from the split's store."""
    starts = fixed_windows(split.episodes, window, count, seed)
    read = lru_cache(2)(split.frames)  # the starts ascend

    def part(tar: Tar, start: int) -> tuple[Frames, int, int]:
        low, high = max(start, tar.start), min(start + window, tar.stop)
        return read(tar), low - tar.start, high - tar.start

    frames = [
        joined([part(tar, s) for tar in split.tars if tar.start < s + window and s < tar.stop])
        for s in starts.tolist()
    ]
    windows = Windows(np.zeros(count, np.int64), np.ones(count, bool))
    return assemble(frames, windows, window, split.proprio_normalizer())


class _OpenTar:
    """A tar that is read when its frames are first asked for, by one of the asking threads."""

    def __init__(self, load: Callable[[], Frames]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._frames: Frames | None = None

    def frames(self) -> Frames:
        with self._lock:
            if self._frames is None:
                self._frames = self._load()
            return self._frames


class _Item(NamedTuple):
    """What a batch is cut from, row by row."""

    tars: list[_OpenTar]
    numbers: np.ndarray
    starts: np.ndarray


class _OpenTars:
    """The order of the windows, with the tars that they are in.

    The tars that come next are expected meanwhile. A tar is forgotten with the last batch of the
    epoch that needs it, unless it is to be kept; its memory is free as soon as that batch has been
    made.
    """

    def __init__(
        self,
        order: TarWindows,
        load: Callable[[int], Frames],
        expect: Callable[[int], None],
        *,
        keep: bool,
    ) -> None:
        self._order, self._load, self._expect, self._keep = order, load, expect, keep
        self._tars: dict[int, _OpenTar] = {}

    def num_batches(self, epoch: int) -> int:
        return self._order.num_batches(epoch)

    def item(self, position: Position) -> _Item:
        item = self._order.item(position)
        numbers = item.tars.tolist()
        for number in set(numbers) - self._tars.keys():
            self._tars[number] = _OpenTar(partial(self._load, number))
        for number in item.coming:
            if number not in self._tars:
                self._expect(number)
        tars = [self._tars[number] for number in numbers]
        if not self._keep:
            for number in item.finished:
                del self._tars[number]
        return _Item(tars, item.tars, item.starts)
