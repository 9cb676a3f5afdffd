"""The denoising process of the policies: cosine schedule, Gaussian posterior, log-probability.

``k`` is the denoising index: 0 is the last (cleanest) step, ``steps - 1`` the first. The network
call "at k" receives the noisier chunk ``x(k+1)`` and leads to ``x(k)`` (DDPM, arXiv:2006.11239;
cosine schedule, arXiv:2102.09672; docs/algorithm.md 4.2 and 6.3).
"""

import math

import torch
from torch import nn

from wam.errors import WamError

NOISE_CLIP = 3.0
"""Draws of a denoising step are clipped to this many standard deviations."""
LOG_PROB_RANGE = (-5.0, 2.0)
"""Range of the log-density of one dimension."""

_OFFSET = 0.008
_MAX_BETA = 0.999


class Schedule(nn.Module):
    """The constants of every denoising step, float32 [steps], computed in float64.

    Every method takes ``k`` as an int or as an int64 tensor [B] that goes with samples [B, dims].
    The buffers are not part of the state dict: they follow from ``steps``.
    """

    alpha_bar: torch.Tensor
    posterior_std: torch.Tensor
    clean_weight: torch.Tensor
    """Weight of the predicted clean sample in the posterior mean."""
    noisy_weight: torch.Tensor
    _signal: torch.Tensor
    _noise: torch.Tensor
    _clean_from_noisy: torch.Tensor
    _clean_from_noise: torch.Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        level = torch.cos((grid + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2
        beta = (1 - level[1:] / level[:-1]).clamp(max=_MAX_BETA)
        alpha_bar = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        constants = {
            "beta": beta,
            "alpha_bar": alpha_bar,
            "posterior_std": (beta * (1 - before) / (1 - alpha_bar)).sqrt(),
            "clean_weight": beta * before.sqrt() / (1 - alpha_bar),
            "noisy_weight": (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar),
            "_signal": alpha_bar.sqrt(),
            "_noise": (1 - alpha_bar).sqrt(),
            "_clean_from_noisy": alpha_bar.rsqrt(),
            "_clean_from_noise": (1 / alpha_bar - 1).sqrt(),
        }
        for name, values in constants.items():
            self.register_buffer(name, values.float(), persistent=False)

    def add_noise(
        self, clean: torch.Tensor, noise: torch.Tensor, k: torch.Tensor | int
    ) -> torch.Tensor:
        """``x(k+1)``, the input of the call at ``k``, for a clean sample and unit noise."""
        return _at(self._signal, k) * clean + _at(self._noise, k) * noise

    def clean(
        self, noisy: torch.Tensor, noise: torch.Tensor, k: torch.Tensor | int
    ) -> torch.Tensor:
        """The clean sample that ``noisy`` and the predicted noise imply, clipped to [-1, 1]."""
        implied = _at(self._clean_from_noisy, k) * noisy - _at(self._clean_from_noise, k) * noise
        return implied.clamp(-1.0, 1.0)

    def mean(self, noisy: torch.Tensor, noise: torch.Tensor, k: torch.Tensor | int) -> torch.Tensor:
        """Mean of ``x(k)`` given ``x(k+1)`` and the noise that the network sees in it."""
        clean = self.clean(noisy, noise, k)
        return _at(self.clean_weight, k) * clean + _at(self.noisy_weight, k) * noisy

    def ddim_levels(self, count: int) -> list[int]:
        """The noise levels of ``count`` DDIM steps, evenly from ``steps`` down to 0: [count + 1].

        The step from a level to the next is the call at ``k = level - 1``. Raises WamError if there
        are more steps than the schedule has, or none.
        """
        if not 0 < count <= self.steps:
            raise WamError(f"ddim_steps={count}: expected 1 to {self.steps}")
        return [self.steps * step // count for step in range(count, -1, -1)]

    def ddim(self, noisy: torch.Tensor, noise: torch.Tensor, k: int, level: int) -> torch.Tensor:
        """``x(level)`` on the deterministic path (DDIM, arXiv:2010.02502, eta = 0).

        ``noisy`` is ``x(k+1)``, ``noise`` what the network sees in it, and ``level`` at most ``k``.
        """
        clean = self.clean(noisy, noise, k)
        if level == 0:
            return clean
        # Not the predicted noise: with a clipped clean sample it would not add up to ``noisy``.
        implied = (noisy - self._signal[k] * clean) / self._noise[k]
        return self.add_noise(clean, implied, level - 1)

    def exploration_std(self, floor: float) -> torch.Tensor:
        """Standard deviation of every step [steps] while exploring: at least ``floor``."""
        return self.posterior_std.clamp(min=floor)

    def evaluation_std(self, floor: float = 1e-3) -> torch.Tensor:
        """Standard deviation of every step [steps] at evaluation: none at the last one."""
        std = self.posterior_std.clamp(min=floor)
        std[0] = 0.0
        return std


def log_prob(sample: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Gaussian log-density [...] of ``sample`` [..., dims], clamped per dimension, MEAN over dims.

    ``std`` [...]. The mean makes a probability ratio the dims-th root of the true one, which is
    what the clip ranges of DPPO refer to (arXiv:2409.00588).
    """
    std = std.unsqueeze(-1)
    density = -0.5 * ((sample - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    return density.clamp(*LOG_PROB_RANGE).mean(-1)


def _at(constants: torch.Tensor, k: torch.Tensor | int) -> torch.Tensor:
    value = constants[k]
    return value if isinstance(k, int) else value.unsqueeze(-1)
