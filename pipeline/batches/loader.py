"""Delivering batches: in order, ahead of their use, and from any position on.

What the batches hold is decided elsewhere, so their order is the same with any number of workers.
Workers are threads: reading, decoding and copying all release Python's lock.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from pipeline.batches.order import Position
from wam.batch import Batch
from wam.errors import WamError

Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)

_CPU = torch.device("cpu")


class Order(Protocol[ItemOut]):
    """What every batch holds; asked by one thread alone."""

    def num_batches(self, epoch: int) -> int: ...

    def item(self, position: Position) -> ItemOut: ...


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How batches are made and where they go; nothing here changes what a global batch holds."""

    workers: int = 1
    """Threads that make batches; 0: the thread that asks for them."""
    prefetch: int = 2
    """Batches made ahead of their use, where there are workers."""
    device: torch.device = _CPU
    """Where batches are delivered; a GPU's copies run beside its work, from pinned memory."""
    rank: int = 0
    world_size: int = 1
    """This process delivers one of ``world_size`` parts of the batch rows."""

    @property
    def pinned(self) -> bool:
        return self.device.type == "cuda"

    def rows(self, batch: int) -> int:
        """Rows of this rank. Raises WamError if the ranks cannot have equally many."""
        if batch % self.world_size:
            raise WamError(
                f"train_world_model.batch={batch} is not a multiple of {self.world_size} ranks"
            )
        return batch // self.world_size


ONE_WORKER = Delivery()


class BatchLoader(Generic[Item]):
    """Infinite iterator over :class:`Batch` [T, B] in the order of ``order``.

    ``make(item)`` returns the batch of an item of the order as CPU tensors, in any thread.
    ``identity`` holds plain values that name the order. After ``load_state_dict`` exactly the
    batches follow that followed ``state_dict``, whatever ``delivery`` is.
    """

    def __init__(
        self,
        order: Order[Item],
        make: Callable[[Item], Batch],
        identity: dict[str, Any],
        delivery: Delivery,
    ) -> None:
        self._order, self._make, self._identity = order, make, identity
        self._device = delivery.device
        self._ahead = 1 + delivery.prefetch if delivery.workers else 0
        self._workers = (
            ThreadPoolExecutor(delivery.workers, thread_name_prefix="loader")
            if delivery.workers
            else None
        )
        self._copies = torch.cuda.Stream(delivery.device) if delivery.pinned else None
        self._waiting: deque[tuple[Future[_Made], Position]] = deque()
        self._position = self._next = Position(0, 0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._workers is None:
            made = self._prepare(self._order.item(self._position))
            self._position = self._following(self._position)
            return self._hand_over(made)
        while len(self._waiting) < self._ahead:
            future = self._workers.submit(self._prepare, self._order.item(self._next))
            self._next = self._following(self._next)
            self._waiting.append((future, self._next))
        made = self._waiting[0][0].result()
        _, self._position = self._waiting.popleft()
        return self._hand_over(made)

    def state_dict(self) -> dict[str, Any]:
        """Where the reader stands, after the last batch that was handed out; JSON-like."""
        return {
            "epoch": self._position.epoch,
            "batch": self._position.batch,
            **self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where ``state`` was taken. Raises WamError if it belongs to another order."""
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise WamError(
                    f"loader state: {name} is {state.get(name)!r}, this loader's is {value!r}; "
                    "a checkpoint continues only on the same data and settings"
                )
        while self._waiting:
            self._waiting.popleft()[0].cancel()
        self._position = self._next = Position(state["epoch"], state["batch"])

    def close(self) -> None:
        """Stop the workers."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _following(self, position: Position) -> Position:
        if position.batch + 1 < self._order.num_batches(position.epoch):
            return Position(position.epoch, position.batch + 1)
        return Position(position.epoch + 1, 0)

    def _prepare(self, item: Item) -> "_Made":
        if self._copies is None:
            return _Made(self._make(item), None)
        # The stream's device becomes the thread's, whose pinned memory then belongs to it.
        with torch.cuda.stream(self._copies):
            batch = self._make(item).to(self._device, non_blocking=True)
            return _Made(batch, self._copies.record_event())

    def _hand_over(self, made: "_Made") -> Batch:
        if made.copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(made.copied)
            for field in made.batch:  # the memory may be used again when this stream is done
                field.record_stream(current)
        return made.batch


@dataclass(frozen=True)
class _Made:
    batch: Batch
    copied: torch.cuda.Event | None
    """On a GPU: reached when the copy is complete."""
