"""Training on several processes, one per device, as ``torchrun`` starts them."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import distributed

from wam.errors import WamError

_SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Ranks(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes of ``torchrun`` for the block's time; alone where there are none.

    Raises WamError if the environment names others without what torchrun sets to find them, if
    there is no GPU for this process, or if they cannot be reached.
    """
    world_size = _number("WORLD_SIZE", "1", least=1)
    if world_size == 1:
        yield ALONE
        return
    missing = [name for name in _SET_BY_TORCHRUN if not os.environ.get(name)]
    if missing:
        raise WamError(
            f"WORLD_SIZE={world_size}, but {', '.join(missing)} not set; start with torchrun, "
            "or unset WORLD_SIZE to train in one process"
        )
    rank, local_rank = _number("RANK"), _number("LOCAL_RANK")
    _number("MASTER_PORT")
    if rank >= world_size:
        raise WamError(f"RANK={rank}: not below WORLD_SIZE={world_size}; start with torchrun")
    if torch.cuda.is_available():
        num_devices = torch.cuda.device_count()
        if local_rank >= num_devices:
            raise WamError(
                f"LOCAL_RANK={local_rank}: this machine has {num_devices} GPU(s); start with "
                f"torchrun --nproc-per-node {num_devices}"
            )
        torch.cuda.set_device(local_rank)
    try:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    except distributed.DistError as error:
        raise WamError(
            f"the {world_size} processes did not meet at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}); start all with torchrun"
        ) from None
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def agreed(value: bool = False) -> bool:
    """The ``value`` that the first process passes, in all of them; the others wait for it."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


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


def _number(name: str, default: str = "", *, least: int = 0) -> int:
    """The environment variable ``name``, a number from ``least`` on."""
    text = os.environ.get(name, default)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise WamError(
            f"{name}={text!r}: expected a number from {least} on, as torchrun sets it; "
            "unset WORLD_SIZE to train in one process"
        )
    return int(text)
