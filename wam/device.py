"""The device a run uses."""

import contextlib
import ctypes
import time
from collections.abc import Iterator

import torch

from wam.errors import WamError

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
"""Options of glibc's mallopt(3)."""


def resolve(name: str) -> torch.device:
    """The device called ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises WamError for any other name, and for ``cuda`` without a usable GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise WamError(f"device: unknown device '{name}'; expected auto, cpu or cuda")
    if not torch.cuda.is_available():
        raise WamError(
            "device: 'cuda' asked for, but torch sees no GPU; use 'auto' or 'cpu', "
            "or install a CUDA build of torch"
        )
    return torch.device("cuda")


def describe(device: torch.device) -> str:
    """Its name, for those who compare figures."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def now(device: torch.device) -> float:
    """Seconds of a clock at which everything asked of ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with ``count`` threads, None: with as many as before.

    How sums are split among threads shows in their last bits.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors free, for the rest of the process.

    By default it returns large blocks to the kernel, and every training step pays for fresh pages
    again: a quarter of the time of a step on a CPU. Has no effect where the library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
