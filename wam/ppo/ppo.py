"""DPPO: policy optimisation of a diffusion policy in imagination (arXiv:2409.00588).

Two levels: decisions n of the environment, and within each the last J denoising steps j, which use
the denoising index k = J - 1 - j. All defaults are those of algorithm contract 6, fixes included.
Shapes: N decisions in time, E environments, J fine-tuned steps, F feature, A values of a chunk,
D decisions that count (N * E, unless environments wait), P = D * J pairs of decision and step.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from wam.config import FinetuneConfig
from wam.policy.diffusion import log_prob
from wam.policy.network import DiffusionMlp
from wam.policy.policy import FinetunedPolicy
from wam.ppo.advantage import group_advantage
from wam.ppo.critic import Critic, Estimate
from wam.ppo.experience import Rollout, collect, experience_report, mean_penalty
from wam.ppo.imagination import Environment
from wam.reliability.finite import check_weights

CLIP_GROWTH = 3.0
"""Exponent of the growth of the clip range along the denoising steps."""


def clip_ranges(steps: int, base: float, maximum: float) -> torch.Tensor:
    """Clip range of every fine-tuned step [J] by k: ``base`` at k = J-1, ``maximum`` at k = 0."""
    if steps == 1:
        return torch.tensor([maximum])
    progress = torch.linspace(1.0, 0.0, steps)
    growth = torch.expm1(CLIP_GROWTH * progress) / math.expm1(CLIP_GROWTH)
    return base + (maximum - base) * growth


class Dppo:
    """The actor of one fine-tuning run, what judges its decisions, and the updates.

    With ``advantage: gae`` a critic judges, with ``group`` the other episodes from the same start.
    """

    def __init__(
        self,
        base: DiffusionMlp,
        feature: int,
        config: FinetuneConfig,
        generator: torch.Generator,
    ) -> None:
        """Start from ``base``, frozen, on its device; ``generator`` (CPU) makes the critic."""
        self._config = config
        device = next(base.parameters()).device
        actor = copy.deepcopy(base).requires_grad_(True)
        self.policy = FinetunedPolicy(base, actor, config.finetuned_steps).to(device)
        self._critic = None
        if config.advantage == "gae":
            self._critic = Critic(feature, config, device, generator)
        self._actor_optimizer = torch.optim.AdamW(
            actor.parameters(), lr=config.actor_lr, weight_decay=0.0, fused=True
        )
        self._std = self.policy.schedule.exploration_std(config.min_std)
        steps = config.finetuned_steps
        self._clip = clip_ranges(steps, config.clip_base, config.clip_max).to(device)
        discount = config.denoising_gamma ** torch.arange(steps)
        self._discount = discount.to(device)
        self.iteration = 0

    def train_iteration(self, env: Environment, generator: torch.Generator) -> dict[str, Any]:
        """Collect experience, update, and return the diagnostics of algorithm contract 6.9.

        ``generator`` lives on the environment's device.
        """
        config = self._config
        rollout = collect(env, self.policy, config.steps, config.min_std, generator)
        report = experience_report(rollout)
        if config.disagreement_scale:
            report["penalty"] = mean_penalty(rollout)
        report |= self.update(rollout, generator)
        report["step"] = self.iteration
        return report

    def update(self, rollout: Rollout, generator: torch.Generator) -> dict[str, Any]:
        """Optimise the critic on ``rollout`` and, once its warm-up is over, the actor.

        Raises WamError if a weight of one of them is not finite after that.
        """
        config = self._config
        train_actor = self._critic is None or self.iteration >= config.critic_warmup
        fixed = self._prepare(rollout)
        losses: list[torch.Tensor] = []
        kl_by_k, clipped_by_k, seen_by_k = self._clip.new_zeros((3, config.finetuned_steps))
        for _ in range(config.epochs):
            first = len(losses)
            for pairs in self._minibatches(len(fixed.feature), generator):
                value_loss = self._step_critic(fixed, pairs)
                if not train_actor:
                    losses.append(torch.stack([value_loss, *value_loss.new_zeros(3)]))
                    continue
                policy_loss, bc_kl, kl, clipped, k = self._step_actor(fixed, pairs)
                losses.append(torch.stack([value_loss, policy_loss, bc_kl, kl.mean()]))
                kl_by_k.index_add_(0, k, kl)
                clipped_by_k.index_add_(0, k, clipped.float())
                seen_by_k.index_add_(0, k, torch.ones_like(kl))
            if train_actor and torch.stack(losses[first:])[:, 3].mean() > config.target_kl:
                break
        self.iteration += 1
        self._check_weights()
        value_loss, policy_loss, bc_kl, kl = torch.stack(losses).mean(0).tolist()
        seen_by_k.clamp_(min=1)
        return {
            "value_loss": None if self._critic is None else value_loss,
            "policy_loss": policy_loss,
            "bc_kl": bc_kl,
            "approx_kl": kl,
            "approx_kl_by_k": (kl_by_k / seen_by_k).tolist(),
            "clip_fraction_by_k": (clipped_by_k / seen_by_k).tolist(),
            "explained_variance": fixed.explained_variance,
            "actor_distance": self._actor_distance(),
            "gradient_steps": len(losses),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, the frozen base aside."""
        return {
            "actor": self.policy.actor.state_dict(),
            "actor_optimizer": self._actor_optimizer.state_dict(),
            "critic": None if self._critic is None else self._critic.state_dict(),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.actor.load_state_dict(state["actor"])
        self._actor_optimizer.load_state_dict(state["actor_optimizer"])
        if self._critic is not None:
            self._critic.load_state_dict(state["critic"])
        self.iteration = state["iteration"]

    def _check_weights(self) -> None:
        when = f"finetune, iteration {self.iteration}"
        check_weights(self.policy.actor, f"{when}, actor", "lower finetune.actor_lr")
        if self._critic is not None:
            self._critic.check(when)

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> "_Fixed":
        """What stays the same during the updates of one iteration."""
        steps = self._config.finetuned_steps
        feature, chain = rollout.feature.flatten(0, 1), rollout.chain.flatten(0, 1)
        if self._critic is not None:
            estimate = self._critic.estimate(rollout)
        else:
            # The rows of waiting environments go no further.
            active = rollout.active.flatten()
            feature, chain = feature[active], chain[active]
            estimate = Estimate(self._compare(rollout).flatten()[active], None, None)
        noisy, cleaner = chain[:, :-1].flatten(0, 1), chain[:, 1:].flatten(0, 1)
        decision = torch.arange(len(feature), device=feature.device).repeat_interleave(steps)
        k = torch.arange(steps - 1, -1, -1, device=feature.device).repeat(len(feature))
        # The chains and the base are fixed: its means are evaluated once, not once per minibatch.
        base_mean = self._means(self.policy.base, feature, decision, noisy, k)
        mean = self._means(self.policy.actor, feature, decision, noisy, k)
        return _Fixed(
            feature=feature,
            noisy=noisy,
            cleaner=cleaner,
            decision=decision,
            k=k,
            base_mean=base_mean,
            log_prob=log_prob(cleaner, mean, self._std[k]),
            advantage=estimate.advantage,
            returns=estimate.returns,
            explained_variance=estimate.explained_variance,
        )

    def _minibatches(self, decisions: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Shuffled pair indices int64 [M] that cover every pair once."""
        config, steps = self._config, self._config.finetuned_steps
        device = self._clip.device
        if config.minibatch_over == "pair":
            order = torch.randperm(decisions * steps, generator=generator, device=generator.device)
            yield from order.to(device).split(config.minibatch)
            return
        order = torch.randperm(decisions, generator=generator, device=generator.device).to(device)
        for rows in order.split(config.minibatch):
            yield (rows.unsqueeze(1) * steps + torch.arange(steps, device=device)).flatten()

    def _compare(self, rollout: Rollout) -> torch.Tensor:
        """Advantages [N, E] by comparison within the groups."""
        config = self._config
        return group_advantage(rollout.reward, config.max_decisions, config.group, config.gamma)

    def _step_critic(self, fixed: "_Fixed", pairs: torch.Tensor) -> torch.Tensor:
        """The critic's loss; 0 without a critic."""
        if self._critic is None or fixed.returns is None:
            return torch.zeros((), device=self._clip.device)
        return self._critic.step(fixed.feature, fixed.returns, fixed.decision[pairs])

    def _step_actor(self, fixed: "_Fixed", pairs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Policy loss, BC-KL, and per pair the approximate KL, whether it was clipped, and k."""
        k = fixed.k[pairs]
        decision, inverse = fixed.decision[pairs].unique(return_inverse=True)
        mean = self._means(
            self.policy.actor, fixed.feature[decision], inverse, fixed.noisy[pairs], k
        )
        std = self._std[k]
        log_ratio = log_prob(fixed.cleaner[pairs], mean, std) - fixed.log_prob[pairs]
        ratio = log_ratio.exp()
        advantage = fixed.advantage[fixed.decision[pairs]]
        if self._critic is not None:  # groups are centred and scaled already, each by itself
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        advantage = advantage * self._discount[k]
        clip = self._clip[k]
        clipped_ratio = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
        policy_loss = torch.maximum(-advantage * ratio, -advantage * clipped_ratio).mean()
        bc_kl = gaussian_kl(fixed.base_mean[pairs], mean, std)
        self._actor_optimizer.zero_grad()
        (policy_loss + self._config.bc_scale * bc_kl).backward()
        self._actor_optimizer.step()
        with torch.no_grad():
            kl = ratio - 1 - log_ratio
            clipped = (ratio - 1).abs() > clip
        return policy_loss.detach(), bc_kl.detach(), kl, clipped, k

    def _means(
        self,
        network: DiffusionMlp,
        feature: torch.Tensor,
        row: torch.Tensor,
        noisy: torch.Tensor,
        k: torch.Tensor,
    ) -> torch.Tensor:
        """Posterior means [M, A] of ``noisy`` at steps ``k`` [M], for features ``feature[row]``."""
        hidden = network.condition(feature)[row] + functional.embedding(k, network.step_table())
        return self.policy.schedule.mean(noisy, network.denoise(noisy, hidden), k)

    @torch.no_grad()
    def _actor_distance(self) -> float:
        """Relative distance between the weights of actor and base."""
        base = nn.utils.parameters_to_vector(self.policy.base.parameters())
        actor = nn.utils.parameters_to_vector(self.policy.actor.parameters())
        return float((actor - base).norm() / base.norm())


def gaussian_kl(base_mean: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """KL divergence of Gaussians with equal ``std`` [M], per dimension, averaged over [M, A]."""
    return ((base_mean - mean).square().mean(-1) / (2 * std.square())).mean()


class _Fixed(NamedTuple):
    feature: torch.Tensor
    """[D, F]"""
    noisy: torch.Tensor
    """[P, A]"""
    cleaner: torch.Tensor
    """[P, A]"""
    decision: torch.Tensor
    """[P], row of ``feature``"""
    k: torch.Tensor
    """[P]"""
    base_mean: torch.Tensor
    """[P, A]"""
    log_prob: torch.Tensor
    """[P], under the actor that collected the experience"""
    advantage: torch.Tensor
    """[D]"""
    returns: torch.Tensor | None
    """[D]; None without a critic"""
    explained_variance: float | None
