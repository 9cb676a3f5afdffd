"""Proprioception as a part of the state: seen where a frame is seen, else moved by the action.

A recurrent model that has to rebuild the hand from what it dreams learns the plans of its play
rather than what actions do, and knows no place where the play never went. Here the hand goes where
a relative action says, exactly, and a network only adds what it meets on the way.

Shapes: H = hidden, P = 18 numbers of proprioception, A = 7 action.
"""

import torch
from torch import nn

from wam.config import POSITION_STEP_M, PROPRIO_SIZE

_SPREAD = 4.0
"""Normalised values in [0, 1] become [-2, 2]: centimetres are small beside what networks read."""


class ProprioState(nn.Module):
    """Proprioception float32 [..., P] as states hold it: ``4 (p - 0.5)`` of the normalised p."""

    step: torch.Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.correction = nn.Linear(hidden, PROPRIO_SIZE)
        self.register_buffer("step", torch.zeros(3))

    @torch.no_grad()
    def calibrate(self, span: torch.Tensor) -> None:
        """Tell how many metres [3] lie between 0 and 1 of the normalised TCP position."""
        self.step.copy_(_SPREAD * POSITION_STEP_M / span)
        # To begin with, a hand does what it is told and nothing else changes.
        nn.init.zeros_(self.correction.weight)

    def seen(self, embedding: torch.Tensor) -> torch.Tensor:
        """That of the embedding [..., E], whose last numbers are the normalised ones."""
        return _SPREAD * (embedding[..., -PROPRIO_SIZE:] - 0.5)

    def predicted(
        self, stoch: torch.Tensor, action: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """What the end of ``stoch`` [..., Z + P] becomes by ``action`` [..., A].

        ``hidden`` [..., H], of the prior behind the action, corrects it.
        """
        last = stoch[..., -PROPRIO_SIZE:]
        motion = self.step * action[..., :3]
        rest = torch.zeros_like(last[..., 3:])
        return last + torch.cat([motion, rest], dim=-1) + self.correction(hidden).float()
