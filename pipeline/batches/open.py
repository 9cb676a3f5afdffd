"""What the world model is trained on and tested with, read as ``loader`` asks for."""

from typing import Any, NamedTuple

import torch

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.batches.from_shards import shard_batches, shard_validation_windows
from pipeline.batches.from_store import store_batches, validation_windows
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.batches.order import NO_VIEWS, Views
from pipeline.params import Profile
from pipeline.store.open import Store, open_store
from pipeline.webdataset.read import open_split
from wam.batch import Batch
from wam.distributed import ALONE, Ranks
from wam.paths import expanded
from wam.proprio import ProprioNormalizer


class TrainingData(NamedTuple):
    """The readers of one run."""

    batches: BatchLoader[Any]
    """Of the training split; to be closed."""
    validation: Batch
    """Held-out windows, fixed by the seed; the same from the store and from its shards."""
    normalizer: ProprioNormalizer
    inputs: dict[str, str]
    """Digests of what is read, by name."""


def open_training_data(
    profile: Profile, layout: Layout, device: torch.device, ranks: Ranks = ALONE
) -> TrainingData:
    """The data for training on ``device``, one rank's part of every batch.

    Raises WamError if a split is absent, damaged or too small, or a cache has no room.
    """
    loader, training = profile.loader, profile.train_world_model
    windows = (
        profile.evaluate_world_model.open_loop_steps + 1,
        profile.evaluate_world_model.open_loop_sequences,
        training.seed,
    )
    options: dict[str, Any] = {
        "batch": training.batch,
        "window": training.window,
        "seed": training.seed,
        "cache": loader.cache,
        "cache_directory": layout.cache,
        "delivery": Delivery(
            workers=loader.workers,
            device=device,
            rank=ranks.rank,
            world_size=ranks.world_size,
        ),
    }
    if loader.reader == "shards":
        location = loader.shards or layout.shards
        if str(location).startswith("~"):
            location = expanded(location, "loader.shards")
        split, held_out_split = (open_split(location, name) for name in SPLITS)
        validation = shard_validation_windows(held_out_split, *windows)
        return TrainingData(
            shard_batches(split, **options),
            validation,
            split.proprio_normalizer(),
            {"shards": split.digest},
        )
    store = open_play(profile, layout)
    held_out = open_store(
        store_path(layout.store, "validation"), distractors=profile.world_model.distractors
    )
    validation = validation_windows(held_out, *windows)
    options |= {"views": views_of(profile), "keeps_state": training.compat == "diwa"}
    return TrainingData(
        store_batches(store, loader.reader, **options),
        validation,
        store.proprio_normalizer(),
        {"store": manifests.fingerprint(layout.store, "convert", deep=False)},
    )


def open_play(profile: Profile, layout: Layout) -> Store:
    """The training split as a world model of ``profile`` sees it, as far as it learns from it.

    Raises WamError if it is absent or damaged.
    """
    path = store_path(layout.store, "training")
    store = open_store(path, distractors=profile.world_model.distractors)
    return store.beginning(profile.train_world_model.data_share)


def views_of(profile: Profile) -> Views:
    """What embeddings have to show beside their windows: as many frames as latents are decoded."""
    model, training = profile.world_model, profile.train_world_model
    if not (model.embedding_image_scale and model.view_reach):
        return NO_VIEWS
    return Views(max(1, round(training.image_frames * training.window)), model.view_reach)
