"""Which number format the networks compute in: bf16 where it is faster.

Logits, divergences, losses and normalisation stay in fp32 either way, and bf16 needs no loss scale
(algorithm contract 2.8).
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from wam.distributed import mean_over_ranks

_ROUNDS = 2
_WORTH_IT = 1.1
"""How much faster bf16 has to be: two formats that take equally long should not alternate."""


class Precision(NamedTuple):
    """A choice and why it was made."""

    name: Literal["fp32", "bf16"]
    reason: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which networks are to run on ``device``."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.name == "bf16")


def choose(
    setting: Literal["auto", "fp32", "bf16"], device: torch.device, trial: Callable[[], None]
) -> Precision:
    """The format that ``setting`` asks for; ``auto`` times ``trial`` where the answer is open."""
    if setting != "auto":
        return Precision(setting, "as set")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return Precision("bf16", "this GPU has it")
        return Precision("fp32", "this GPU has no bf16")
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capability:
        return Precision("fp32", f"this CPU ({capability}) has no fast bf16")
    seconds = {name: _fastest(Precision(name, ""), device, trial) for name in ("fp32", "bf16")}
    # All processes have to come to the same answer.
    ratio = float(mean_over_ranks(torch.tensor(seconds["fp32"] / seconds["bf16"])))
    reason = f"bf16 was measured at {ratio:.2f} times the speed of fp32"
    return Precision("bf16" if ratio > _WORTH_IT else "fp32", reason)


def _fastest(precision: Precision, device: torch.device, trial: Callable[[], None]) -> float:
    seconds = []
    for _ in range(1 + _ROUNDS):  # the first warms up
        start = time.perf_counter()
        with precision.autocast(device):
            trial()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
