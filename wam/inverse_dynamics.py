"""Inverse-dynamics head: which action led from one embedding to the next (WAM's addition).

It reads encoder embeddings and not latent features, because the deterministic state already
contains the action (algorithm contract 2.6).
"""

from collections.abc import Sequence

import torch
from torch import nn

from wam.config import ACTION_SIZE
from wam.nets import NORM_EPS


class InverseDynamics(nn.Module):
    """MLP on [e_t; e_{t+1}]; LayerNorm and ELU after each hidden layer, no squashing at the end."""

    def __init__(self, embedding: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 2 * embedding
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width, eps=NORM_EPS), nn.ELU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, ACTION_SIZE))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Predicted actions [T-1, B, 7] between consecutive ``embedding`` [T, B, E]."""
        return self.layers(torch.cat([embedding[:-1], embedding[1:]], dim=-1)).float()


def action_error(
    prediction: torch.Tensor, action: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Mean absolute error per action dimension [7] over the pairs of ``mask`` [T-1, B].

    ``prediction`` and ``action`` [T-1, B, 7]; row t belongs to the pair (t, t + 1).
    Without any pair the error is 0.
    """
    weight = mask.unsqueeze(-1).to(prediction.dtype)
    total = ((prediction - action).abs() * weight).sum((0, 1))
    return total / weight.sum().clamp_min(1.0)


def gripper_accuracy(
    prediction: torch.Tensor, action: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Share of the pairs of ``mask`` whose gripper command has the right sign."""
    right = (prediction[..., -1] >= 0) == (action[..., -1] >= 0)
    return (right & mask).sum() / mask.sum().clamp_min(1)
