"""Training on several processes, one per device, as ``torchrun`` starts them."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import distributed


class Ranks(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes of ``torchrun`` for the block's time; alone where there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if distributed.is_initialized():
        distributed.barrier()


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of all processes' ``value``, without gradient; ``value`` itself in a single one."""
    if not distributed.is_initialized():
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def all_rows(value: torch.Tensor) -> torch.Tensor:
    """The rows [B, ...] of all processes, one after the other: [B * world_size, ...]."""
    if not distributed.is_initialized():
        return value
    parts = [torch.empty_like(value) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, value.contiguous())
    return torch.cat(parts)
