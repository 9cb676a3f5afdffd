"""Properties of the orders: what the batches hold, for any table of episodes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.batches.order import (
    Position,
    RandomWindows,
    Streams,
    TarWindows,
    Views,
    all_windows,
    fixed_windows,
)
from wam.errors import WamError

lengths_of_episodes = st.lists(st.integers(1, 90), min_size=1, max_size=6)
seeds = st.integers(0, 1000)


def table(lengths: list[int]) -> np.ndarray:
    stops = np.cumsum(lengths)
    return np.stack([stops - lengths, stops], axis=1)


def rows_of(starts: np.ndarray, window: int) -> np.ndarray:
    return (np.ravel(starts)[:, None] + np.arange(window)).ravel()


def assert_inside_episodes(starts: np.ndarray, window: int, episodes: np.ndarray) -> None:
    first = np.searchsorted(episodes[:, 0], starts, side="right") - 1
    assert (starts >= episodes[first, 0]).all()
    assert (starts + window <= episodes[first, 1]).all(), "a window crosses an episode"


@settings(deadline=None, max_examples=60)
@given(
    lengths=lengths_of_episodes,
    batch=st.integers(1, 4),
    window=st.integers(2, 12),
    seed=seeds,
    epoch=st.integers(0, 3),
)
def test_streams_cover_every_frame_once_per_epoch(
    lengths: list[int], batch: int, window: int, seed: int, epoch: int
) -> None:
    episodes = table(lengths)
    try:
        streams = Streams(episodes, batch, window, seed)
    except WamError:
        assume(False)
    starts = streams.starts(epoch)
    rows = rows_of(starts, window)
    assert len(np.unique(rows)) == len(rows), "no frame twice in an epoch"
    assert_inside_episodes(starts, window, episodes)
    # What is left over: the frames around the windows of an episode, and less than one batch.
    most = sum(min(length, 2 * window - 2) for length in lengths) + (batch - 1) * window
    assert len(rows) >= sum(lengths) - most


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(20, 90), min_size=1, max_size=6),
    batch=st.integers(1, 3),
    seed=seeds,
)
def test_is_first_exactly_where_a_row_does_not_continue(
    lengths: list[int], batch: int, seed: int
) -> None:
    episodes, window = table(lengths), 5
    episode_of_row = np.repeat(np.arange(len(lengths)), lengths)
    streams = Streams(episodes, batch, window, seed)
    for epoch in range(3):
        previous = None
        for number in range(streams.num_batches(epoch)):
            windows = streams.item(Position(epoch, number))
            for column, start in enumerate(windows.starts):
                continues = (
                    previous is not None
                    and start == previous[column] + window
                    and episode_of_row[start] == episode_of_row[start - 1]
                )
                assert windows.is_first[column] != continues
            previous = windows.starts


@settings(deadline=None, max_examples=40)
@given(lengths=lengths_of_episodes, batch=st.integers(1, 4), window=st.integers(2, 12), seed=seeds)
def test_an_epoch_of_random_windows_holds_all_of_them_once(
    lengths: list[int], batch: int, window: int, seed: int
) -> None:
    episodes = table(lengths)
    possible = [
        start
        for first, stop in episodes.tolist()
        for start in range(first, stop)
        if start + window <= stop
    ]
    assert all_windows(episodes, window).tolist() == possible
    if len(possible) < batch:
        few = f"only {len(possible)} windows of {window} frames"
        with pytest.raises(WamError, match=few if possible else f"window={window}: longer than"):
            RandomWindows(episodes, batch, window, seed)
        return
    order = RandomWindows(episodes, batch, window, seed)
    for epoch in range(2):
        items = [order.item(Position(epoch, i)) for i in range(order.num_batches(epoch))]
        starts = np.concatenate([item.starts for item in items]).tolist()
        assert all(item.is_first.all() and len(item.starts) == batch for item in items)
        assert len(set(starts)) == len(starts) > len(possible) - batch
        assert set(starts) <= set(possible)


@pytest.mark.parametrize("kind", [Streams, RandomWindows])
def test_every_frame_is_reached(kind: type[Streams] | type[RandomWindows]) -> None:
    """Also those at the ends of episodes, and those that once were the remainder of an epoch."""
    lengths, window = [9, 23, 4, 8, 40], 8
    order = kind(table(lengths), 3, window, seed=5)
    reached: set[int] = set()
    for epoch in range(200):
        for number in range(order.num_batches(epoch)):
            reached |= set(rows_of(order.item(Position(epoch, number)).starts, window).tolist())
    too_short = set(range(32, 36))
    assert reached == set(range(sum(lengths))) - too_short


@pytest.mark.parametrize("kind", [Streams, RandomWindows])
def test_order_depends_on_seed_and_epoch_only(kind: type[Streams] | type[RandomWindows]) -> None:
    episodes = table([200, 300])

    def starts(order: Streams | RandomWindows, epoch: int) -> list[list[int]]:
        numbers = range(order.num_batches(epoch))
        return [order.item(Position(epoch, i)).starts.tolist() for i in numbers]

    a, b = (kind(episodes, 4, 8, seed=3) for _ in range(2))
    for epoch in (7, 5, 6):
        starts(b, epoch)
    assert starts(a, 2) == starts(b, 2)
    assert starts(a, 0) != starts(a, 1)
    assert starts(a, 0) != starts(kind(episodes, 4, 8, seed=4), 0)


@settings(deadline=None, max_examples=40)
@given(lengths=lengths_of_episodes, window=st.integers(2, 12), reach=st.integers(1, 30), seed=seeds)
@pytest.mark.parametrize("kind", [Streams, RandomWindows])
def test_views_are_of_the_windows_episode_and_within_reach(
    kind: type[Streams] | type[RandomWindows],
    lengths: list[int],
    window: int,
    reach: int,
    seed: int,
) -> None:
    """All frames within reach come up, and where views are drawn changes nothing else."""
    episodes = table(lengths)
    assume(len(all_windows(episodes, window)) >= 2 * len(lengths))
    plain = kind(episodes, 1, window, seed)
    order = kind(episodes, 1, window, seed, views=Views(300, reach))
    for batch in range(order.num_batches(0)):
        starts, is_first, views = order.item(Position(0, batch))
        np.testing.assert_array_equal(starts, plain.item(Position(0, batch)).starts)
        np.testing.assert_array_equal(is_first, plain.item(Position(0, batch)).is_first)
        (episode,) = np.flatnonzero((episodes[:, 0] <= starts) & (starts < episodes[:, 1]))
        low = max(episodes[episode, 0], int(starts[0]) - reach)
        high = min(episodes[episode, 1], int(starts[0]) + window + reach)
        assert views.shape == (300, 1)
        assert low <= views.min() <= views.max() < high
        assert len(np.unique(views)) > (high - low) * 0.8
        np.testing.assert_array_equal(views, order.item(Position(0, batch)).views)


def test_a_window_longer_than_every_episode_is_an_error() -> None:
    for kind in (Streams, RandomWindows):
        with pytest.raises(WamError, match=r"window=41: longer than every episode of the data"):
            kind(np.array([[0, 40], [40, 60]]), 2, 41, seed=0)


def test_too_few_windows_is_an_error() -> None:
    with pytest.raises(WamError, match=r"batch=9: the data hold only 8 windows of 10 frames"):
        Streams(table([49, 49]), 9, 10, seed=0)


def test_fixed_windows_are_drawn_once() -> None:
    starts = fixed_windows(table([40, 40]), 16, 10, seed=5)
    assert len(set(starts.tolist())) == 10
    assert np.all((starts % 40) + 16 <= 40)
    with pytest.raises(WamError, match="window=41: longer than every episode"):
        fixed_windows(table([40, 40]), 41, 1, seed=5)


# The rows of a tar follow those of the tar before; an episode may go on in the next tar.
tables_of_tars = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=9
)


def runs_of_tars(lengths: list[list[int]]) -> list[np.ndarray]:
    rows = table([length for tar in lengths for length in tar])
    return np.split(rows, np.cumsum([len(tar) for tar in lengths])[:-1])


@settings(deadline=None, max_examples=80)
@given(
    lengths=tables_of_tars,
    batch=st.integers(1, 4),
    window=st.integers(2, 9),
    seed=seeds,
    world_size=st.integers(1, 3),
    shuffle_tars=st.integers(1, 4),
)
def test_tars_are_dealt_out_to_the_ranks(
    lengths: list[list[int]],
    batch: int,
    window: int,
    seed: int,
    world_size: int,
    shuffle_tars: int,
) -> None:
    runs = runs_of_tars(lengths)
    try:
        ranks = [
            TarWindows(
                runs,
                batch,
                window,
                seed,
                rank=rank,
                world_size=world_size,
                shuffle_tars=shuffle_tars,
            )
            for rank in range(world_size)
        ]
    except WamError:
        assume(False)
    for epoch in range(2):
        num_batches = {order.num_batches(epoch) for order in ranks}
        assert len(num_batches) == 1 and min(num_batches) >= 1
        seen: list[set[int]] = []
        rows: list[np.ndarray] = []
        for order in ranks:
            finished: set[int] = set()
            used: set[int] = set()
            for number in range(order.num_batches(epoch)):
                item = order.item(Position(epoch, number))
                assert len(item.tars) == len(item.starts) == batch
                assert not finished & set(item.tars.tolist()), "a finished tar is needed again"
                for tar, start in zip(item.tars, item.starts, strict=True):
                    assert_inside_episodes(np.array([start]), window, runs[tar])
                used |= set(item.tars.tolist())
                finished |= item.finished
                rows.append(rows_of(item.starts, window))
            assert finished == used
            seen.append(used)
        assert len(set().union(*seen)) == sum(map(len, seen)), "two ranks read the same tar"
        all_rows = np.concatenate(rows)
        assert len(np.unique(all_rows)) == len(all_rows), "no frame twice in an epoch"


def test_few_tars_are_open_at_a_time_and_windows_are_mixed() -> None:
    runs = runs_of_tars([[100]] * 40)
    order = TarWindows(runs, 10, 10, seed=1, shuffle_tars=5)
    items = [order.item(Position(0, i)) for i in range(order.num_batches(0))]
    open_tars: set[int] = set()
    most = 0
    for item in items:
        open_tars |= set(item.tars.tolist())
        most = max(most, len(open_tars))
        open_tars -= item.finished
    assert most <= 5 + 3  # a batch holds the windows of one tar, and so spans a few places
    assert np.mean([len(set(item.tars.tolist())) for item in items[5:-5]]) > 3
    assert [i.tars.tolist() for i in items] != [
        order.item(Position(1, i)).tars.tolist() for i in range(order.num_batches(1))
    ][: len(items)]


def test_tars_that_come_next_are_announced_in_the_order_of_their_first_use() -> None:
    order = TarWindows(runs_of_tars([[40]] * 12), 4, 10, seed=1, shuffle_tars=3)
    items = [order.item(Position(0, i)) for i in range(order.num_batches(0))]
    first_use = list(dict.fromkeys(tar for item in items for tar in item.tars.tolist()))
    used: set[int] = set()
    for item in items:
        used |= set(item.tars.tolist())
        assert list(item.coming) == [tar for tar in first_use if tar not in used][:2]


def test_every_frame_of_a_tar_is_reached() -> None:
    runs, window = runs_of_tars([[9, 23], [4], [8, 40]]), 8
    reached: set[int] = set()
    order = TarWindows(runs, 2, window, seed=0)
    for epoch in range(200):
        for number in range(order.num_batches(epoch)):
            reached |= set(rows_of(order.item(Position(epoch, number)).starts, window).tolist())
    assert reached == set(range(84)) - set(range(32, 36))


def test_too_few_tars_is_an_error() -> None:
    with pytest.raises(WamError, match=r"2 tars dealt out to 3 ranks may hold only 0 for one"):
        TarWindows(runs_of_tars([[90], [90]]), 2, 8, seed=0, world_size=3)


def test_the_reference_keeps_the_state_where_a_row_jumps() -> None:
    """Only a window that begins with its episode is without a past there."""
    episodes = table([40, 25, 60, 33])
    fixed = Streams(episodes, batch=2, window=7, seed=0)
    kept = Streams(episodes, batch=2, window=7, seed=0, keeps_state=True)
    jumps = 0
    for batch in range(1, fixed.num_batches(0)):
        position = Position(0, batch)
        right, reference = fixed.item(position), kept.item(position)
        assert np.array_equal(right.starts, reference.starts)
        assert np.array_equal(reference.is_first, np.isin(right.starts, episodes[:, 0]))
        jumps += int((right.is_first & ~reference.is_first).sum())
    assert jumps > 0
