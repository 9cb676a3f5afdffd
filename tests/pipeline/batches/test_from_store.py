from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts.layout import Layout
from pipeline.batches.from_shards import shard_validation_windows
from pipeline.batches.from_store import store_batches, store_frames, validation_windows
from pipeline.batches.loader import Delivery
from pipeline.batches.order import Position, RandomWindows, Streams, Views, fixed_windows
from pipeline.params import Profile
from pipeline.pictures.images import all_to_model_size
from pipeline.stages import convert, export
from pipeline.store.open import Store, open_store
from pipeline.webdataset.read import open_split
from wam.actions import NULL_ACTION
from wam.batch import Batch
from wam.distractors import disturbed
from wam.errors import WamError

READERS = ["streams", "windows"]
CACHES = ["none", "ram", "memmap"]


@pytest.fixture
def store(converted: Layout) -> Store:
    return open_store(converted.store / "training.zarr")


@pytest.mark.parametrize("cache", CACHES)
def test_distractors_are_an_episodes_own_and_move_with_its_frames(
    converted: Layout, store: Store, tmp_path: Path, cache: Any
) -> None:
    """However frames are read, and never what lies on the disk."""
    seen = open_store(store.path, distractors=True)
    # Both kinds share a directory of caches.
    plain_frames, frames = (store_frames(s, cache, tmp_path) for s in (store, seen))
    assert len(store.episodes) > 1
    for camera, name in enumerate(("rgb_static", "rgb_gripper")):
        plain, disturbed_images = store.read(name), seen.read(name)
        for start, stop in store.episodes.tolist():
            number = int(store.frame_ids[start])
            for row in range(start, stop):
                expected = disturbed(plain[row], number, row - start, camera)
                np.testing.assert_array_equal(disturbed_images[row], expected)
        for rows in ((3, 17), (start, stop)):
            for read, images in ((plain_frames, plain), (frames, disturbed_images)):
                target = np.empty((rows[1] - rows[0], 64, 64, 3), np.uint8)
                getattr(read, name)(rows[0], target)
                np.testing.assert_array_equal(target, all_to_model_size(images[slice(*rows)]))
    np.testing.assert_array_equal(seen.read("proprio"), store.read("proprio"))
    assert len(list(tmp_path.glob("*.npy"))) == (2 if cache == "memmap" else 0)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_batches_hold_the_stores_rows(
    store: Store, tmp_path: Path, reader: str, cache: str, share: float
) -> None:
    rows_of_batch, window = 2, 8
    beginning = store.beginning(share)
    episodes = beginning.episodes
    assert (len(episodes) < len(store.episodes)) == (share < 1)
    order = {"streams": Streams, "windows": RandomWindows}[reader](
        episodes, rows_of_batch, window, seed=1, views=Views(3, 9)
    )
    images = {name: store.read(name) for name in ("rgb_static", "rgb_gripper")}
    actions = store.read("rel_actions")
    proprio = store.proprio_normalizer()(store.read("proprio"))
    options: dict[str, Any] = {"batch": rows_of_batch, "window": window, "seed": 1, "cache": cache}
    options |= {"views": Views(3, 9), "cache_directory": tmp_path}
    with store_batches(beginning, reader, **options) as batches:  # type: ignore[arg-type]
        for epoch in range(2):
            for number in range(order.num_batches(epoch)):
                batch = next(batches)
                windows = order.item(Position(epoch, number))
                rows = windows.starts + np.arange(window)[:, None]
                for name, stored in images.items():
                    np.testing.assert_array_equal(getattr(batch, name).numpy(), stored[rows])
                np.testing.assert_array_equal(
                    batch.view_static, images["rgb_static"][windows.views]
                )
                np.testing.assert_array_equal(
                    batch.view_gripper, images["rgb_gripper"][windows.views]
                )
                np.testing.assert_array_equal(batch.view_proprio, proprio[windows.views])
                np.testing.assert_array_equal(batch.proprio.numpy(), proprio[rows])
                np.testing.assert_array_equal(batch.action.numpy(), actions[rows])
                first = batch.is_first.numpy()
                np.testing.assert_array_equal(first[0], windows.is_first)
                assert not first[1:].any()
                prev_action = batch.prev_action.numpy()
                np.testing.assert_array_equal(prev_action[~first], actions[rows - 1][~first])
                assert (prev_action[first] == np.array(NULL_ACTION, np.float32)).all()
                assert batch.id_mask.shape == (window - 1, rows_of_batch)
                assert batch.id_mask.all()


def test_the_beginning_of_a_store_ends_with_an_episode(store: Store) -> None:
    stops = store.episodes[:, 1].tolist()
    assert stops[-1] == store.num_frames == store.beginning(1.0).num_frames
    for share, count in (
        (1e-9, 1),
        (stops[0] / store.num_frames, 1),
        ((stops[0] + 1) / store.num_frames, 2),
    ):
        beginning = store.beginning(share)
        assert beginning.num_frames == stops[count - 1]
        assert beginning.episode_scenes == store.episode_scenes[:count]
        for name in ("episodes", "frame_ids"):
            whole, part = getattr(store, name), getattr(beginning, name)
            np.testing.assert_array_equal(part, whole[: len(part)])
        assert (len(beginning.episodes), len(beginning.frame_ids)) == (count, stops[count - 1])


def test_the_memory_mapped_beginning_is_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    beginning = store.beginning(0.5)
    for frames in (store, beginning, store):
        cached = store_frames(frames, "memmap", tmp_path)
        np.testing.assert_array_equal(cached.proprio, frames.read("proprio"))
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.parametrize("reader", READERS)
def test_batch_types(store: Store, reader: str) -> None:
    with store_batches(store, reader, batch=3, window=6, seed=0) as batches:  # type: ignore[arg-type]
        batch = next(batches)
    assert batch.rgb_static.shape == batch.rgb_gripper.shape == (6, 3, 64, 64, 3)
    assert batch.rgb_static.dtype == torch.uint8
    assert batch.proprio.shape == (6, 3, 18)
    assert batch.prev_action.shape == batch.action.shape == (6, 3, 7)
    for name in ("proprio", "prev_action", "action"):
        assert getattr(batch, name).dtype == torch.float32
    assert batch.is_first.dtype == batch.id_mask.dtype == torch.bool
    assert 0 <= batch.proprio.min() <= batch.proprio.max() <= 1
    assert all(field.is_contiguous() for field in batch)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 6, 11])
def test_resume_continues_exactly(store: Store, reader: str, taken: int) -> None:
    """Also at the edges of epochs, which have 4 or 5 batches of streams here; with any workers."""
    options: dict[str, Any] = {"batch": 3, "window": 7, "seed": 2, "views": Views(1, 20)}
    with store_batches(store, reader, **options, cache="ram") as batches:  # type: ignore[arg-type]
        for _ in range(taken):
            next(batches)
        state = batches.state_dict()
        expected = [next(batches) for _ in range(8)]
    for workers in (0, 1, 2):
        delivery = Delivery(workers=workers)
        with store_batches(store, reader, **options, delivery=delivery) as batches:  # type: ignore[arg-type]
            next(batches)
            batches.load_state_dict(state)
            for batch in expected:
                _assert_equal(next(batches), batch)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_side_by_side_are_the_batch_of_one_process(
    store: Store, reader: str, world_size: int
) -> None:
    options: dict[str, Any] = {"batch": 6, "window": 5, "seed": 4, "views": Views(2, 8)}
    ranks = [
        store_batches(
            store,
            reader,  # type: ignore[arg-type]
            **options,
            delivery=Delivery(rank=rank, world_size=world_size, workers=rank % 3),
        )
        for rank in range(world_size)
    ]
    with store_batches(store, reader, **options) as whole:  # type: ignore[arg-type]
        for _ in range(10):
            parts = [next(rank) for rank in ranks]
            joined = Batch(*(torch.cat(fields, 1) for fields in zip(*parts, strict=True)))
            _assert_equal(joined, next(whole))
            assert {str(rank.state_dict()) for rank in ranks} == {str(whole.state_dict())}
    for rank in ranks:
        rank.close()


def test_state_of_another_reader_is_refused(store: Store) -> None:
    options: dict[str, Any] = {"batch": 3, "seed": 2, "delivery": Delivery(workers=0)}
    batches = store_batches(store, "streams", window=7, **options)
    with pytest.raises(WamError, match=r"loader state: window is 8, this loader's is 7"):
        batches.load_state_dict(store_batches(store, "streams", window=8, **options).state_dict())
    with pytest.raises(WamError, match=r"loader state: reader is 'windows'"):
        batches.load_state_dict(store_batches(store, "windows", window=7, **options).state_dict())


def test_larger_images_are_brought_to_the_models_size(
    converted: Layout,
    raw_root: Path,
    make_profile: Callable[..., Profile],
    tmp_path: Path,
) -> None:
    profile = make_profile(raw_root)
    profile = replace(profile, convert=replace(profile.convert, image_size=None))
    layout = Layout(tmp_path)
    layout.index.symlink_to(converted.index)
    convert.run(profile, layout)
    large = open_store(layout.store / "training.zarr")
    assert large.arrays["rgb_gripper"].shape == (72, 80, 3)
    small = open_store(converted.store / "training.zarr")
    np.testing.assert_array_equal(
        all_to_model_size(large.read("rgb_gripper", 7, 9)), small.read("rgb_gripper", 7, 9)
    )
    for cache in CACHES:
        with (
            store_batches(small, "windows", batch=3, window=5, seed=0) as expected,
            store_batches(
                large,
                "windows",
                batch=3,
                window=5,
                seed=0,
                cache=cache,  # type: ignore[arg-type]
                cache_directory=tmp_path,
            ) as found,
        ):
            for _ in range(5):
                _assert_equal(next(found), next(expected))
    export.run(profile, layout)
    windows = shard_validation_windows(open_split(layout.shards, "training"), 8, 5, seed=0)
    _assert_equal(windows, validation_windows(small, 8, 5, seed=0))


def test_a_cache_in_a_file_needs_a_directory(store: Store) -> None:
    with pytest.raises(WamError, match="needs a directory"):
        store_frames(store, "memmap")


def test_the_cache_is_keyed_by_the_stores_digest(converted: Layout, tmp_path: Path) -> None:
    store = open_store(converted.store / "training.zarr")
    store_frames(store, "memmap", tmp_path)
    (file,) = tmp_path.iterdir()
    made = file.stat().st_mtime_ns
    store_frames(store, "memmap", tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made]


def test_validation_windows_are_fixed_and_start_without_a_past(converted: Layout) -> None:
    store = open_store(converted.store / "validation.zarr")
    batch = validation_windows(store, 16, 10, seed=5)
    assert batch.rgb_static.shape == (16, 10, 64, 64, 3)
    assert batch.is_first[0].all()
    assert not batch.is_first[1:].any()
    assert batch.id_mask.all()
    _assert_equal(batch, validation_windows(store, 16, 10, seed=5))
    starts = fixed_windows(store.episodes, 16, 10, seed=5)
    np.testing.assert_array_equal(batch.rgb_static[3].numpy(), store.read("rgb_static")[starts + 3])
    with pytest.raises(WamError, match="window=41: longer than every episode"):
        validation_windows(store, 41, 1, seed=0)


def test_unknown_store_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam convert' first"):
        open_store(tmp_path / "training.zarr")


def _assert_equal(a: Batch, b: Batch) -> None:
    for name, left, right in zip(Batch._fields, a, b, strict=True):
        assert torch.equal(left, right), name
