"""Batches for training the world model, read from the store."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.artifacts import manifests
from pipeline.batches.assemble import assemble
from pipeline.batches.decoded import Cache, announce, cache_file, joined, memory_mapped
from pipeline.batches.loader import ONE_WORKER, BatchLoader, Delivery
from pipeline.batches.order import NO_VIEWS, RandomWindows, Streams, Views, Windows, fixed_windows
from pipeline.pictures.images import all_to_model_size
from pipeline.store.array_reader import ArrayReader
from pipeline.store.disturbed import DisturbedReader
from pipeline.store.frames import Frames
from pipeline.store.open import Store
from wam.batch import Batch
from wam.distractors import DISTRACTORS_VERSION


def store_frames(store: Store, cache: Cache = "none", directory: Path | None = None) -> Frames:
    """All frames of a store, images in the model's size.

    ``none`` decodes images whenever they are read, ``ram`` decodes all now and holds them (25 kB
    per frame), ``memmap`` decodes all into a file below ``directory``, once for all runs and
    processes that read the same store. Raises WamError if there is no room for that.
    """
    frames = Frames(
        partial(_copy_images, store.reader("rgb_static")),
        partial(_copy_images, store.reader("rgb_gripper")),
        store.read("proprio"),
        store.read("rel_actions"),
    )
    if cache == "none":
        return frames
    if cache == "ram":
        announce(store.num_frames, "memory")
        return joined([(frames, 0, store.num_frames)])
    content, version = store.split, manifests.fingerprint(store.path.parent, "convert", deep=False)
    if store.distractors:
        content, version = f"{content}-disturbed", manifests.digest([version, DISTRACTORS_VERSION])
    if store.rows is not None:
        content = f"{content}-{store.rows}"
    path = cache_file(directory, content, version)
    announce(store.num_frames, str(path))
    return memory_mapped(path, store.num_frames, lambda: frames)


def store_batches(
    store: Store,
    reader: Literal["streams", "windows"],
    *,
    batch: int,
    window: int,
    seed: int,
    cache: Cache = "none",
    cache_directory: Path | None = None,
    keeps_state: bool = False,
    views: Views = NO_VIEWS,
    delivery: Delivery = ONE_WORKER,
) -> BatchLoader[Windows]:
    """Batches of ``batch`` rows over all ranks: :class:`Streams` or :class:`RandomWindows`.

    The ranks' batches side by side are the batch of a single process. ``keeps_state`` is that of
    the streams; random windows have no past to keep. For ``cache`` see :func:`store_frames`. Raises
    WamError if there are fewer windows than a batch.
    """
    order: Streams | RandomWindows
    if reader == "streams":
        order = Streams(store.episodes, batch, window, seed, keeps_state=keeps_state, views=views)
    else:
        order = RandomWindows(store.episodes, batch, window, seed, views=views)
    frames = store_frames(store, cache, cache_directory)
    normalizer = store.proprio_normalizer()
    count = delivery.rows(batch)
    own = slice(delivery.rank * count, (delivery.rank + 1) * count)

    def make(windows: Windows) -> Batch:
        part = Windows(windows.starts[own], windows.is_first[own], windows.views[:, own])
        return assemble([frames] * count, part, window, normalizer, pinned=delivery.pinned)

    identity: dict[str, Any] = {
        "reader": reader,
        "seed": seed,
        "batch_rows": batch,
        "window": window,
        "source_digest": manifests.digest([store.attrs["source_digest"], store.episodes.tolist()]),
    }
    if views.per_window:
        identity["views"] = list(views)
    return BatchLoader(order, make, identity, delivery)


def validation_windows(store: Store, window: int, count: int, seed: int) -> Batch:
    """``count`` fixed random windows [T, B=count] that never cross an episode, each without a past.

    Raises WamError if no episode is long enough.
    """
    starts = fixed_windows(store.episodes, window, count, seed)
    windows = Windows(starts, np.ones(count, bool))
    return assemble([store_frames(store)] * count, windows, window, store.proprio_normalizer())


def _copy_images(reader: ArrayReader | DisturbedReader, start: int, target: np.ndarray) -> None:
    if reader.shape[1:] == target.shape[1:]:
        reader.copy(start, target)
    else:
        target[...] = all_to_model_size(reader[start : start + len(target)])
