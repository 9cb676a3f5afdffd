"""Which number format the networks compute in: bf16 on a GPU that has it.

Logits, divergences, losses and normalisation stay in fp32 either way, and bf16 needs no loss scale
(docs/algorithm.md 2.8). The choice follows from the device alone: what a trial would measure
depends on what else runs, and the same settings would give other weights.
"""

from typing import Literal, NamedTuple

import torch


class Precision(NamedTuple):
    """A number format."""

    name: Literal["fp32", "bf16"]

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which networks are to run on ``device``."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.name == "bf16")


def choose(setting: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The format that ``setting`` asks for; ``auto`` is bf16 on a GPU that has it, else fp32."""
    if setting != "auto":
        return Precision(setting)
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return Precision("bf16" if has_bf16 else "fp32")
