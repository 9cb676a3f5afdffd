"""Networks of the diffusion policies: residual MLPs, as of the critic.

Shapes: B batch, F feature, H first hidden width, K denoising steps, A = 4 * 7 values of a chunk.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from wam.config import ACTION_SIZE, CHUNK, PolicyConfig
from wam.errors import WamError

CHUNK_VALUES = CHUNK * ACTION_SIZE


class ResidualBody(nn.Module):
    """Pre-activation residual blocks of two layers each, then a linear layer (Mish)."""

    def __init__(self, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        if len(hidden) % 2 == 0 or len(set(hidden)) != 1:
            raise WamError(f"hidden={list(hidden)}: expected an odd number of equal widths")
        width = hidden[0]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Mish(), nn.Linear(width, width), nn.Mish(), nn.Linear(width, width))
            for _ in range(len(hidden) // 2)
        )
        self.last = nn.Linear(width, outputs)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


class ResidualMlp(nn.Sequential):
    """A linear layer and a residual body; ``hidden`` is one width, an odd number of times."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__(nn.Linear(inputs, hidden[0]), ResidualBody(hidden, outputs))


class DiffusionMlp(nn.Module):
    """Noise in an action chunk, predicted from the noisy chunk, the step and the feature.

    A residual MLP on [chunk A; embedded step; feature F] (DPPO, arXiv:2409.00588; docs/algorithm.md
    4.1). Its first layer is kept in three parts, because the feature's share is the same
    for all denoising steps of a decision and the step's share the same for all rows.
    """

    def __init__(
        self, feature: int, hidden: Sequence[int], steps: int, time_embedding: int
    ) -> None:
        super().__init__()
        self.steps = steps
        self.time = nn.Sequential(
            nn.Linear(time_embedding, 2 * time_embedding),
            nn.Mish(),
            nn.Linear(2 * time_embedding, time_embedding),
        )
        self.from_chunk = nn.Linear(CHUNK_VALUES, hidden[0], bias=False)
        self.from_step = nn.Linear(time_embedding, hidden[0], bias=False)
        self.from_feature = nn.Linear(feature, hidden[0])
        self.body = ResidualBody(hidden, CHUNK_VALUES)
        # As one layer would be initialised: by the number of all its inputs.
        bound = (CHUNK_VALUES + time_embedding + feature) ** -0.5
        for part in (self.from_chunk, self.from_step, self.from_feature):
            for values in part.parameters():
                nn.init.uniform_(values, -bound, bound)
        self.register_buffer("_sinusoid", _sinusoid(steps, time_embedding), persistent=False)

    def forward(self, noisy: torch.Tensor, k: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """Predicted noise [B, A] in ``noisy`` [B, A] at steps ``k`` int64 [B]."""
        hidden = self.condition(feature) + functional.embedding(k, self.step_table())
        return self.denoise(noisy, hidden)

    def condition(self, feature: torch.Tensor) -> torch.Tensor:
        """The feature's share [..., H] of the first layer, bias included."""
        return self.from_feature(feature)

    def step_table(self) -> torch.Tensor:
        """The step's share of the first layer for every step, [K, H]."""
        return self.from_step(self.time(self._sinusoid))

    def denoise(self, noisy: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Predicted noise [B, A] for ``hidden`` [B, H] = condition + row of the step table."""
        return self.body(torch.addmm(hidden, noisy, self.from_chunk.weight.T))


def build_network(config: PolicyConfig, feature: int) -> DiffusionMlp:
    """An untrained network of the configured sizes for features of size ``feature``."""
    return DiffusionMlp(feature, config.hidden, config.diffusion_steps, config.time_embedding)


def _sinusoid(steps: int, size: int) -> torch.Tensor:
    """Sinusoidal embedding [steps, size] of the step index: sines, then cosines."""
    half = size // 2
    frequency = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(half) / (half - 1))
    angle = torch.arange(steps).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
