"""Inverse-dynamics head: which actions led from one embedding to a later one (WAM's addition).

It reads encoder embeddings and not latent features, because the deterministic state already
contains the action (docs/algorithm.md 2.6).

T = time, B = batch, K = steps between the two frames of a pair, E = embedding.
"""

from collections.abc import Sequence

import torch
from torch import nn

from wam.config import ACTION_SIZE
from wam.distributed import mean_over_ranks
from wam.world_model.nets import NORM_EPS


class InverseDynamics(nn.Module):
    """MLP on [e_t; e_{t+K}]; LayerNorm and ELU after each hidden layer, no squashing at the end."""

    def __init__(self, embedding: int, hidden: Sequence[int], steps: int = 1) -> None:
        super().__init__()
        self.steps = steps
        layers: list[nn.Module] = []
        inputs = 2 * embedding
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.LayerNorm(width, eps=NORM_EPS), nn.ELU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, steps * ACTION_SIZE))

    def forward(self, earlier: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
        """The K actions [..., K, 7] between embeddings [..., E] that lie K steps apart."""
        actions = self.layers(torch.cat([earlier, later], dim=-1)).float()
        return actions.unflatten(-1, (self.steps, ACTION_SIZE))


def spans(
    action: torch.Tensor, id_mask: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head is to predict in a window: actions [T-K, B, K, 7] and which count [T-K, B].

    ``action`` [T, B, 7] are those executed after the frames, ``id_mask`` [T-1, B] tells which
    frames follow each other in one episode.
    """
    pairs = len(action) - steps
    targets = torch.stack([action[k : k + pairs] for k in range(steps)], dim=2)
    mask = torch.stack([id_mask[k : k + pairs] for k in range(steps)]).all(0)
    return targets, mask


def action_error(
    prediction: torch.Tensor, action: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Mean absolute error per action dimension [7] over the pairs of ``mask`` [T-K, B].

    ``prediction`` and ``action`` [T-K, B, K, 7]. Without any pair the error is 0. Where several
    processes share a batch, the mean of their errors is that of the batch.
    """
    weight = mask[..., None, None].to(prediction.dtype)
    total = ((prediction - action).abs() * weight).mean(2).sum((0, 1))
    return total / mean_over_ranks(weight.sum()).clamp_min(1.0)


def gripper_accuracy(
    prediction: torch.Tensor, action: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Share of the gripper commands [T-K, B, K, 7] of the pairs of ``mask`` with the right sign."""
    right = (prediction[..., -1] >= 0) == (action[..., -1] >= 0)
    return (right.float().mean(-1) * mask).sum() / mask.sum().clamp_min(1)
