from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import StreamLoader, validation_windows
from pipeline.layout import Layout
from pipeline.store import Store, open_store
from pipeline.windows import Position, Streams, fixed_windows
from wam.actions import NULL_ACTION
from wam.batch import Batch
from wam.errors import WamError


@pytest.fixture
def store(converted: Layout) -> Store:
    return open_store(converted.store / "training.zarr")


def table(lengths: list[int]) -> np.ndarray:
    stops = np.cumsum(lengths)
    return np.stack([stops - lengths, stops], axis=1)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    batch=st.integers(1, 4),
    window=st.integers(2, 12),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 3),
)
def test_streams_cover_every_frame_once_per_epoch(
    lengths: list[int], batch: int, window: int, seed: int, epoch: int
) -> None:
    episodes = table(lengths)
    try:
        streams = Streams(episodes, batch, window, seed)
    except WamError:
        return
    starts = streams.starts(epoch)
    rows = (starts[..., None] + np.arange(window)).ravel()
    assert len(np.unique(rows)) == len(rows), "no frame twice in an epoch"
    first = np.searchsorted(episodes[:, 0], starts, side="right")
    last = np.searchsorted(episodes[:, 0], starts + window - 1, side="right")
    np.testing.assert_array_equal(first, last, "a window crosses an episode")
    assert (starts + window <= episodes[first - 1, 1]).all()
    # What is left over: the frames around the windows of an episode, and less than one batch.
    most = sum(min(length, 2 * window - 2) for length in lengths) + (batch - 1) * window
    assert len(rows) >= sum(lengths) - most


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(20, 90), min_size=1, max_size=6),
    batch=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_is_first_exactly_where_a_row_does_not_continue(
    lengths: list[int], batch: int, seed: int
) -> None:
    episodes, window = table(lengths), 5
    episode_of_row = np.repeat(np.arange(len(lengths)), lengths)
    streams = Streams(episodes, batch, window, seed)
    position, previous = Position(0, 0), None
    for _ in range(30):
        starts = streams.starts(position.epoch)[position.batch]
        is_first = streams.is_first(position)
        for column, start in enumerate(starts):
            continues = (
                previous is not None
                and position.batch > 0
                and start == previous[column] + window
                and episode_of_row[start] == episode_of_row[start - 1]
            )
            assert is_first[column] != continues
        position, previous = streams.following(position), starts


def test_order_depends_on_seed_and_epoch_only() -> None:
    episodes = table([200, 300])
    a, b = (Streams(episodes, 4, 8, seed=3) for _ in range(2))
    b.starts(5)
    np.testing.assert_array_equal(a.starts(2), b.starts(2))
    assert not np.array_equal(a.starts(0), a.starts(1))
    assert not np.array_equal(a.starts(0), Streams(episodes, 4, 8, seed=4).starts(0))


def test_too_few_windows_is_an_error() -> None:
    with pytest.raises(WamError, match=r"batch=9: the data hold only 8 windows of 10 frames"):
        Streams(table([49, 49]), 9, 10, seed=0)


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_batches_hold_the_stores_rows(store: Store, cache: str) -> None:
    batch_rows, window = 2, 8
    streams = Streams(store.episodes, batch_rows, window, seed=1)
    images = {name: store.read(name) for name in ("rgb_static", "rgb_gripper")}
    actions = store.read("rel_actions")
    proprio = store.proprio_normalizer()(store.read("proprio"))
    position = Position(0, 0)
    with StreamLoader(store, batch_rows, window, seed=1, cache=cache) as loader:  # type: ignore[arg-type]
        for _ in range(12):
            batch = next(loader)
            starts = streams.starts(position.epoch)[position.batch]
            rows = starts + np.arange(window)[:, None]
            for name, stored in images.items():
                np.testing.assert_array_equal(getattr(batch, name).numpy(), stored[rows])
            np.testing.assert_array_equal(batch.proprio.numpy(), proprio[rows])
            np.testing.assert_array_equal(batch.action.numpy(), actions[rows])
            first = batch.is_first.numpy()
            np.testing.assert_array_equal(first[0], streams.is_first(position))
            assert not first[1:].any()
            prev_action = batch.prev_action.numpy()
            np.testing.assert_array_equal(prev_action[~first], actions[rows - 1][~first])
            assert (prev_action[first] == np.array(NULL_ACTION, np.float32)).all()
            assert batch.id_mask.shape == (window - 1, batch_rows)
            assert batch.id_mask.all()
            position = streams.following(position)


def test_batch_types(store: Store) -> None:
    with StreamLoader(store, 3, 6, seed=0) as loader:
        batch = next(loader)
    assert batch.rgb_static.shape == batch.rgb_gripper.shape == (6, 3, 64, 64, 3)
    assert batch.rgb_static.dtype == torch.uint8
    assert batch.proprio.shape == (6, 3, 18)
    assert batch.prev_action.shape == batch.action.shape == (6, 3, 7)
    for name in ("proprio", "prev_action", "action"):
        assert getattr(batch, name).dtype == torch.float32
    assert batch.is_first.dtype == batch.id_mask.dtype == torch.bool
    assert 0 <= batch.proprio.min() <= batch.proprio.max() <= 1


@pytest.mark.parametrize("taken", [0, 1, 4, 5, 6, 11])
def test_resume_continues_exactly(store: Store, taken: int) -> None:
    """Also at the edges of epochs, which have 4 or 5 batches here."""
    with StreamLoader(store, 3, 7, seed=2) as loader:
        for _ in range(taken):
            next(loader)
        state = loader.state_dict()
        expected = [next(loader) for _ in range(8)]
    with StreamLoader(store, 3, 7, seed=2, cache="none", prefetch=0) as loader:
        next(loader)
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        for batch in expected:
            _assert_equal(next(loader), batch)


def test_state_of_another_stream_is_refused(store: Store) -> None:
    with StreamLoader(store, 3, 7, seed=2) as loader, StreamLoader(store, 3, 8, seed=2) as other:
        with pytest.raises(WamError, match=r"loader state: window is 8, this loader's is 7"):
            loader.load_state_dict(other.state_dict())


def test_validation_windows_are_fixed_and_start_without_a_past(converted: Layout) -> None:
    store = open_store(converted.store / "validation.zarr")
    batch = validation_windows(store, 16, 10, seed=5)
    assert batch.rgb_static.shape == (16, 10, 64, 64, 3)
    assert batch.is_first[0].all()
    assert not batch.is_first[1:].any()
    assert batch.id_mask.all()
    _assert_equal(batch, validation_windows(store, 16, 10, seed=5))
    starts = fixed_windows(store.episodes, 16, 10, seed=5)
    assert len(set(starts.tolist())) == 10
    assert np.all((starts % 40) + 16 <= 40)
    with pytest.raises(WamError, match="window=41: longer than every episode"):
        validation_windows(store, 41, 1, seed=0)


def test_unknown_store_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="run 'wam convert' first"):
        open_store(tmp_path / "training.zarr")


def _assert_equal(a: Batch, b: Batch) -> None:
    for name, left, right in zip(Batch._fields, a, b, strict=True):
        assert torch.equal(left, right), name
