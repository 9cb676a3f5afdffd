"""Order, position and errors of the delivery, whatever the batches hold."""

import json
import random
import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.batches.order import Position
from wam.batch import Batch
from wam.errors import WamError

EPOCHS = (3, 1, 2, 1, 1, 4)
"""Batches of the first epochs, which then repeat."""


class Numbered:
    """Batches that hold nothing but their own position."""

    def num_batches(self, epoch: int) -> int:
        return EPOCHS[epoch % len(EPOCHS)]

    def item(self, position: Position) -> Position:
        return position


def make(position: Position) -> Batch:
    time.sleep(random.random() * 1e-3)  # so that workers overtake each other
    value = torch.tensor([position.epoch, position.batch])
    return Batch(*(value for _ in Batch._fields))


def loader(**delivery: Any) -> BatchLoader[Position]:
    return BatchLoader(Numbered(), make, {"seed": 1}, Delivery(**delivery))


def position(batch: Batch) -> tuple[int, ...]:
    return tuple(batch.proprio.tolist())


EXPECTED = [(epoch, batch) for epoch in range(12) for batch in range(EPOCHS[epoch % len(EPOCHS)])]


@settings(deadline=None, max_examples=60)
@given(
    taken=st.integers(0, len(EXPECTED) - 8),
    before=st.sampled_from([0, 1, 2]),
    after=st.sampled_from([0, 1, 2]),
    prefetch=st.integers(0, 4),
)
def test_resuming_anywhere_continues_exactly(
    taken: int, before: int, after: int, prefetch: int
) -> None:
    with loader(workers=before, prefetch=prefetch) as first:
        assert [position(next(first)) for _ in range(taken)] == EXPECTED[:taken]
        state = json.loads(json.dumps(first.state_dict()))
        assert position(next(first)) == EXPECTED[taken]
    with loader(workers=after) as second:
        next(second)
        second.load_state_dict(state)
        assert second.state_dict() == state
        found = [position(next(second)) for _ in range(8)]
    assert found == EXPECTED[taken : taken + 8]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_comes_where_its_batch_would(workers: int) -> None:
    def fragile(item: Position) -> Batch:
        if item == Position(2, 1):
            raise WamError("damaged")
        return make(item)

    with BatchLoader(Numbered(), fragile, {}, Delivery(workers=workers)) as batches:
        for _ in range(5):
            next(batches)
        state = batches.state_dict()
        for _ in range(2):  # and again, however often one asks
            with pytest.raises(WamError, match="damaged"):
                next(batches)
            assert batches.state_dict() == state


def test_workers_prepare_no_more_than_asked_for() -> None:
    made: list[Position] = []

    def counted(item: Position) -> Batch:
        made.append(item)
        return make(item)

    with BatchLoader(Numbered(), counted, {}, Delivery(workers=2, prefetch=3)) as batches:
        next(batches)
        time.sleep(0.1)
        assert len(made) == 4
    threads = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("loader") for name in threads)


def test_state_of_another_reader_is_refused() -> None:
    other = {**loader(workers=0).state_dict(), "seed": 2}
    with pytest.raises(WamError, match="loader state: seed is 2, this loader's is 1"):
        loader(workers=0).load_state_dict(other)


def test_ranks_need_equally_many_rows() -> None:
    assert Delivery(world_size=4).rows(8) == 2
    with pytest.raises(WamError, match="batch=6 is not a multiple of 4 ranks"):
        Delivery(world_size=4).rows(6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_arrive_on_the_gpu(workers: int) -> None:
    def pinned(item: Position) -> Batch:
        return Batch(*(field.pin_memory() for field in make(item)))

    device = torch.device("cuda")
    with BatchLoader(Numbered(), pinned, {}, Delivery(workers=workers, device=device)) as batches:
        found = [next(batches) for _ in range(20)]
    assert all(field.device.type == "cuda" for batch in found for field in batch)
    assert [position(batch) for batch in found] == EXPECTED[:20]
