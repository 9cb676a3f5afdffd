"""Training batches from the export alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.artifacts.layout import Layout
from pipeline.batches.from_shards import shard_batches, shard_validation_windows
from pipeline.batches.from_store import validation_windows
from pipeline.batches.loader import Delivery
from pipeline.params import Profile
from pipeline.stages import export
from pipeline.store.open import open_store
from pipeline.webdataset.read import ShardSplit, open_split
from wam.actions import NULL_ACTION
from wam.batch import Batch
from wam.errors import WamError

CACHES = ["none", "ram", "memmap"]


@pytest.fixture(scope="module")
def split(exported: Layout) -> ShardSplit:
    return open_split(exported.shards, "training")


@pytest.mark.parametrize("cache", CACHES)
def test_batches_hold_windows_of_the_store(
    exported: Layout, split: ShardSplit, tmp_path: Path, cache: Any
) -> None:
    store = open_store(exported.store / "training.zarr")
    images = {name: store.read(name) for name in ("rgb_static", "rgb_gripper")}
    actions = store.read("rel_actions")
    proprio = store.proprio_normalizer()(store.read("proprio"))
    row_of = {image.tobytes(): row for row, image in enumerate(images["rgb_static"])}
    window = 7
    options: dict[str, Any] = {"cache": cache, "cache_directory": tmp_path}
    starts = set()
    with shard_batches(split, batch=3, window=window, seed=1, **options) as batches:
        for _ in range(20):
            batch = next(batches)
            first = [row_of[image.tobytes()] for image in batch.rgb_static[0].numpy()]
            starts |= set(first)
            rows = np.array(first) + np.arange(window)[:, None]
            assert (store.episode_of_rows(rows[0]) == store.episode_of_rows(rows[-1])).all()
            for name, stored in images.items():
                np.testing.assert_array_equal(getattr(batch, name).numpy(), stored[rows])
            np.testing.assert_array_equal(batch.proprio.numpy(), proprio[rows])
            np.testing.assert_array_equal(batch.action.numpy(), actions[rows])
            prev_action = batch.prev_action.numpy()
            np.testing.assert_array_equal(prev_action[1:], actions[rows][:-1])
            assert (prev_action[0] == np.array(NULL_ACTION, np.float32)).all()
            assert batch.is_first[0].all() and not batch.is_first[1:].any()
            assert batch.id_mask.all()
            assert all(field.is_contiguous() for field in batch)
    assert len(starts) > 30
    assert len(list(tmp_path.iterdir())) == (len(split.tars) if cache == "memmap" else 0)


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    taken=st.integers(0, 20),
    workers=st.sampled_from([(0, 1), (1, 2), (2, 0)]),
    cache=st.sampled_from(CACHES),
    shuffle_tars=st.integers(1, 3),
)
def test_resuming_anywhere_continues_exactly(
    split: ShardSplit,
    tmp_path_factory: pytest.TempPathFactory,
    taken: int,
    workers: tuple[int, int],
    cache: Any,
    shuffle_tars: int,
) -> None:
    """Epochs have 3 to 5 batches here, so that edges are among the positions."""
    options: dict[str, Any] = {"batch": 3, "window": 7, "seed": 2, "shuffle_tars": shuffle_tars}
    with shard_batches(split, **options, delivery=Delivery(workers=workers[0])) as batches:
        for _ in range(taken):
            next(batches)
        state = json.loads(json.dumps(batches.state_dict()))
        expected = [next(batches) for _ in range(6)]
    with shard_batches(
        split,
        **options,
        cache=cache,
        cache_directory=tmp_path_factory.mktemp("cache"),
        delivery=Delivery(workers=workers[1], prefetch=4),
    ) as batches:
        next(batches)
        batches.load_state_dict(state)
        for batch in expected:
            _assert_equal(next(batches), batch)


def test_ranks_read_different_windows_and_go_together(split: ShardSplit) -> None:
    def frames(batch: Batch) -> list[bytes]:
        return [frame.tobytes() for frame in batch.rgb_static.flatten(0, 1).numpy()]

    ranks = [
        shard_batches(split, batch=6, window=5, seed=0, delivery=Delivery(rank=rank, world_size=3))
        for rank in range(3)
    ]
    seen = [frame for rank in ranks for _ in range(3) for frame in frames(next(rank))]
    assert len(set(seen)) == len(seen) == 3 * 3 * 2 * 5
    assert len({str(rank.state_dict()) for rank in ranks}) == 1
    for rank in ranks:
        rank.close()


def test_validation_windows_equal_those_of_the_store(
    exported: Layout, raw_root: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    """Also where an episode goes on in the next tar."""
    profile = make_profile(raw_root)
    settings = replace(profile.export, sequences_per_shard=2)
    export.run(replace(profile, export=settings), exported, output=tmp_path / "parted")
    store = open_store(exported.store / "validation.zarr")
    for location in (exported.shards, tmp_path / "parted"):
        split = open_split(location, "validation")
        for window in (2, 16, 40):
            expected = validation_windows(store, window, 9, seed=5)
            _assert_equal(shard_validation_windows(split, window, 9, seed=5), expected)
    assert [tar.runs.tolist() for tar in split.tars] == [
        [[0, 32]],
        [[32, 40], [40, 56]],
        [[56, 80]],
    ]


def test_a_damaged_tar_stops_the_reader(exported: Layout, tmp_path: Path) -> None:
    shutil.copytree(exported.shards, tmp_path / "shards")
    tar = tmp_path / "shards" / "training" / "training-000002.tar"
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(content)
    damaged = open_split(tmp_path / "shards", "training")
    for workers in (0, 2):
        delivery = Delivery(workers=workers)
        with shard_batches(damaged, batch=2, window=8, seed=0, delivery=delivery) as batches:
            with pytest.raises(WamError, match=r"training-000002\.tar: damaged shard"):
                for _ in range(10):
                    next(batches)


def test_windows_longer_than_the_runs_are_refused(split: ShardSplit) -> None:
    with pytest.raises(WamError, match="a rank needs 2 windows of 41 frames"):
        shard_batches(split, batch=2, window=41, seed=0)


def _assert_equal(a: Batch, b: Batch) -> None:
    for name, left, right in zip(Batch._fields, a, b, strict=True):
        assert torch.equal(left, right), name


def test_tars_are_fetched_before_they_are_needed(exported: Layout) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(exported.shards), "/ahead", recursive=True)
    try:
        split = open_split("memory://ahead", "training")
        expected = []
        with pytest.MonkeyPatch.context() as patch:
            expect = ShardSplit.expect
            patch.setattr(
                ShardSplit, "expect", lambda self, tar: (expected.append(tar), expect(self, tar))
            )
            options: dict[str, Any] = {"batch": 2, "window": 7, "seed": 1, "shuffle_tars": 1}
            with (
                shard_batches(split, **options) as remote,
                shard_batches(open_split(exported.shards, "training"), **options) as local,
            ):
                for _ in range(20):
                    _assert_equal(next(remote), next(local))
        assert len(expected) > 1
    finally:
        memory.rm("/ahead", recursive=True)
