"""Diffusion policies on latent features: sampling of action chunks, saving, loading.

Shapes: B batch, F feature, K denoising steps, A = 4 * 7 values of a chunk.
"""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wam.actions import executable
from wam.config import ACTION_SIZE, CHUNK, PolicyConfig
from wam.errors import WamError
from wam.policy.diffusion import NOISE_CLIP, Schedule
from wam.policy.network import CHUNK_VALUES, DiffusionMlp, build_network
from wam.randomness import Generators, normal
from wam.weights import load_module


class DiffusionPolicy(nn.Module):
    """A behaviour-cloned policy: one network for all denoising steps."""

    def __init__(self, base: DiffusionMlp) -> None:
        super().__init__()
        self.base = base
        self.schedule = Schedule(base.steps)

    @torch.no_grad()
    def act(
        self, feature: torch.Tensor, generator: Generators, ddim_steps: int | None = None
    ) -> torch.Tensor:
        """Executable chunk float32 [B, 4, 7] for ``feature`` [B, F], by evaluation sampling.

        With one generator per row, a row's chunk does not depend on the other rows. ``ddim_steps``
        samples with so many deterministic steps instead of all the stochastic ones.
        """
        networks = [(self.base, range(self.schedule.steps - 1, -1, -1))]
        return _evaluate(self.schedule, networks, feature, generator, ddim_steps)


class FinetunedPolicy(nn.Module):
    """The frozen base for the first denoising steps, the fine-tuned actor for the last ones.

    ``actor`` serves the steps k < ``finetuned_steps`` (docs/algorithm.md 6.1).
    """

    def __init__(self, base: DiffusionMlp, actor: DiffusionMlp, finetuned_steps: int) -> None:
        super().__init__()
        if not 0 < finetuned_steps <= base.steps:
            raise WamError(f"finetuned_steps={finetuned_steps}: expected 1 to {base.steps}")
        self.base = base.requires_grad_(False)
        self.actor = actor
        self.finetuned_steps = finetuned_steps
        self.schedule = Schedule(base.steps)

    @torch.no_grad()
    def act(
        self, feature: torch.Tensor, generator: Generators, ddim_steps: int | None = None
    ) -> torch.Tensor:
        """As :meth:`DiffusionPolicy.act`; fewer steps are shared by the same rule."""
        return _evaluate(self.schedule, self._networks(), feature, generator, ddim_steps)

    @torch.no_grad()
    def explore(self, feature: torch.Tensor, generator: Generators, min_std: float) -> torch.Tensor:
        """The last latents [B, finetuned_steps + 1, A] of a chain sampled with exploration noise.

        Latent 0 is the input of the call at k = finetuned_steps - 1; latent j + 1 the outcome of
        the call at k = finetuned_steps - 1 - j; the last one is the chunk, not clamped.
        """
        std = self.schedule.exploration_std(min_std)
        keep = self.finetuned_steps + 1
        return sample_chain(self.schedule, self._networks(), feature, generator, std, keep)

    def _networks(self) -> "Networks":
        return [
            (self.base, range(self.schedule.steps - 1, self.finetuned_steps - 1, -1)),
            (self.actor, range(self.finetuned_steps - 1, -1, -1)),
        ]


Policy = DiffusionPolicy | FinetunedPolicy

Networks = Sequence[tuple[DiffusionMlp, range]]
"""Networks in the order of use, each with the denoising indices k that it serves, falling."""


def sample_chain(
    schedule: Schedule,
    networks: Networks,
    feature: torch.Tensor,
    generator: Generators,
    std: torch.Tensor,
    keep: int,
) -> torch.Tensor:
    """The last ``keep`` latents [B, keep, A] of a denoising chain, the sampled chunk last.

    ``std`` [K] is indexed by k.
    """
    # All noise of the chain at once: one draw per generator and decision.
    shape = (feature.shape[0], schedule.steps + 1, CHUNK_VALUES)
    noise = normal(shape, generator, feature.device)
    latent = noise[:, 0]
    scaled = noise[:, 1:].clamp(-NOISE_CLIP, NOISE_CLIP) * std.flip(0).unsqueeze(-1)
    latents = [latent]
    for network, served in networks:
        condition = network.condition(feature)
        table = network.step_table()
        for k in served:
            predicted = network.denoise(latent, condition + table[k])
            latent = schedule.mean(latent, predicted, k) + scaled[:, schedule.steps - 1 - k]
            latents.append(latent)
    return torch.stack(latents[-keep:], dim=1)


def sample_ddim(
    schedule: Schedule,
    networks: Networks,
    feature: torch.Tensor,
    generator: Generators,
    steps: int,
) -> torch.Tensor:
    """A chunk [B, A] by ``steps`` deterministic steps from a draw of the start noise.

    Raises WamError if the schedule has fewer steps.
    """
    latent = normal((feature.shape[0], CHUNK_VALUES), generator, feature.device)
    following = {level - 1: lower for level, lower in pairwise(schedule.ddim_levels(steps))}
    for network, served in networks:
        condition = network.condition(feature)
        table = network.step_table()
        for k in served:
            if k in following:
                predicted = network.denoise(latent, condition + table[k])
                latent = schedule.ddim(latent, predicted, k, following[k])
    return latent


def to_actions(chunk: torch.Tensor) -> torch.Tensor:
    """Executable actions [..., 4, 7] of a sampled chunk [..., A]."""
    return executable(chunk.unflatten(-1, (CHUNK, ACTION_SIZE)))


def policy_description(
    config: PolicyConfig, feature: int, finetuned_steps: int | None = None
) -> dict[str, Any]:
    """What ``config.json`` of a saved policy says, so that :func:`load_policy` can rebuild it."""
    kind = "bc" if finetuned_steps is None else "finetuned"
    return {
        "kind": kind,
        "feature": feature,
        "finetuned_steps": finetuned_steps,
        "policy": asdict(config),
    }


def load_policy(directory: Path, device: torch.device) -> Policy:
    """The policy saved in ``directory``, behaviour-cloned or fine-tuned, in evaluation mode.

    Raises WamError if the directory holds no policy or tensors of other shapes.
    """
    return load_policy_and_config(directory, device)[0]


def load_policy_and_config(directory: Path, device: torch.device) -> tuple[Policy, PolicyConfig]:
    """As :func:`load_policy`, with the settings of its cloning."""
    what = "a policy, of kind 'bc' or 'finetuned'"
    policy, description = load_module(directory, _described, what)
    return policy.to(device), PolicyConfig(**description["policy"])


def _described(description: dict[str, Any]) -> Policy:
    config, feature = PolicyConfig(**description["policy"]), description["feature"]
    base = build_network(config, feature)
    if description["kind"] == "bc":
        return DiffusionPolicy(base)
    if description["kind"] == "finetuned":
        actor = build_network(config, feature)
        return FinetunedPolicy(base, actor, description["finetuned_steps"])
    raise ValueError(description["kind"])


def _evaluate(
    schedule: Schedule,
    networks: Networks,
    feature: torch.Tensor,
    generator: Generators,
    ddim_steps: int | None,
) -> torch.Tensor:
    if ddim_steps is not None:
        return to_actions(sample_ddim(schedule, networks, feature, generator, ddim_steps))
    std = schedule.evaluation_std()
    return to_actions(sample_chain(schedule, networks, feature, generator, std, keep=1)[:, -1])
