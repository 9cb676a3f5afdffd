"""DPPO: policy optimisation of a diffusion policy in imagination (arXiv:2409.00588).

Two levels: the decisions of an environment, and within each the last K denoising steps of its
chunk, of which the j-th has the denoising index k = K - 1 - j. An iteration reads from top to
bottom: collect, advantages, pairs of decision and step, minibatches, losses, step, report. All
defaults are those of docs/algorithm.md 6, fixes included.

Shape suffixes: D = decisions in time, B = environments, F = feature, K = fine-tuned denoising
steps, A = values of a chunk, L = K + 1 latents of a chain, N = decisions that count, in a row (D B,
unless environments wait), P = N K pairs of decision and step, M = pairs of a minibatch, R = the
different decisions of these.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from wam.config import ACTION_SIZE, FinetuneConfig
from wam.policy.diffusion import log_prob
from wam.policy.network import DiffusionMlp, ResidualMlp
from wam.policy.policy import FinetunedPolicy, to_actions
from wam.ppo.advantage import RewardScaler, gae, group_advantage, signal
from wam.ppo.imagination import Environment
from wam.randomness import seeded
from wam.reliability.finite import check_weights

CLIP_GROWTH = 3.0
"""Exponent of the growth of the clip range along the denoising steps."""


class Rollout(NamedTuple):
    """Experience of one iteration."""

    feature: torch.Tensor
    """float32 [D, B, F], what the policy saw"""
    chain: torch.Tensor
    """float32 [D, B, L, A], latents of the fine-tuned steps, not clamped"""
    reward: torch.Tensor
    """float32 [D, B]"""
    terminated: torch.Tensor
    """bool [D, B]"""
    truncated: torch.Tensor
    """bool [D, B]"""
    next_feature: torch.Tensor
    """float32 [D, B, F], the state reached, before any reset"""
    active: torch.Tensor
    """bool [D, B]; False: the environment waited and the row means nothing"""


class Pairs(NamedTuple):
    """What one iteration learns from, the same in all its epochs."""

    feature_NF: torch.Tensor
    advantage_N: torch.Tensor
    return_N: torch.Tensor | None
    """What the critic is to predict; None without a critic."""
    decision_P: torch.Tensor
    """int64, in [0, N)."""
    k_P: torch.Tensor
    """int64, the denoising index."""
    noisy_PA: torch.Tensor
    cleaner_PA: torch.Tensor
    """What was sampled for ``noisy_PA``."""
    log_prob_P: torch.Tensor
    """Of ``cleaner_PA`` under the actor that collected the experience."""
    base_mean_PA: torch.Tensor
    """Where the frozen base would have sampled ``cleaner_PA`` around."""


def collect(
    env: Environment,
    policy: FinetunedPolicy,
    steps: int,
    min_std: float,
    generator: torch.Generator,
) -> Rollout:
    """``steps`` decisions of every environment, all reset first."""
    env.reset()
    rows = []
    for _ in range(steps):
        feature_BF = env.feature
        chain_BLA = policy.explore(feature_BF, generator, min_std)
        reached_BF, *outcome, active_B = env.step(to_actions(chain_BLA[:, -1]))
        rows.append((feature_BF, chain_BLA, *outcome, reached_BF, active_B))
    return Rollout(*(torch.stack(column) for column in zip(*rows, strict=True)))


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
        device, steps = next(base.parameters()).device, config.finetuned_steps
        actor = copy.deepcopy(base).requires_grad_(True)
        self.policy = FinetunedPolicy(base, actor, steps).to(device)
        self._critic: ResidualMlp | None = None
        networks: dict[str, tuple[nn.Module, float]] = {"actor": (actor, config.actor_lr)}
        if config.advantage == "gae":
            with seeded(generator):
                self._critic = ResidualMlp(feature, config.critic_hidden, 1).to(device)
            networks["critic"] = self._critic, config.critic_lr
        self._optimizers = {
            name: torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0, fused=True)
            for name, (network, lr) in networks.items()
        }
        self._reward_scaler = RewardScaler()
        # By k; the base's schedule has steps beyond the K that are trained.
        self._std = self.policy.schedule.exploration_std(config.min_std)
        self._clip_K = clip_ranges(steps, config.clip_base, config.clip_max).to(device)
        self._discount_K = (config.denoising_gamma ** torch.arange(steps)).to(device)
        self.iteration = 0

    def train_iteration(self, env: Environment, generator: torch.Generator) -> dict[str, Any]:
        """Collect experience, update, and return the diagnostics of docs/algorithm.md 6.8.

        ``generator`` lives on the environment's device.
        """
        config = self._config
        rollout = collect(env, self.policy, config.steps, config.min_std, generator)
        report = experience_report(rollout)
        if config.disagreement_scale:
            report["penalty"] = mean_penalty(rollout)
        if config.outcome_floor:
            report["signal"] = signal(report["explored_success"], config.outcome_floor)
            for group in self._optimizers["actor"].param_groups:
                group["lr"] = config.actor_lr * report["signal"]
        report |= self.update(rollout, generator)
        report["step"] = self.iteration
        return report

    def update(self, rollout: Rollout, generator: torch.Generator) -> dict[str, Any]:
        """Optimise the critic on ``rollout`` and, once its warm-up is over, the actor.

        Raises WamError if a weight of one of them is not finite after that.
        """
        config = self._config
        trains_actor = self._critic is None or self.iteration >= config.critic_warmup
        advantage_DB, return_DB, explained_variance = self._advantages(rollout)
        pairs = self._pairs(rollout, advantage_DB, return_DB)
        losses: list[torch.Tensor] = []
        kl_K, clipped_K, seen_K = self._clip_K.new_zeros((3, config.finetuned_steps))
        for _ in range(config.epochs):
            first = len(losses)
            for pair_M in self._minibatches(len(pairs.feature_NF), generator):
                # A decision's feature is looked at once, however many of its steps are here.
                decision_R, row_M = pairs.decision_P[pair_M].unique(return_inverse=True)
                value_loss = self._value_loss(pairs, decision_R, row_M)
                policy_loss = bc_kl = kl = torch.zeros_like(value_loss)
                if trains_actor:
                    policy_loss, bc_kl, log_ratio_M = self._policy_loss(
                        pairs, pair_M, decision_R, row_M
                    )
                    k_M, ratio_M = pairs.k_P[pair_M], log_ratio_M.exp()
                    kl_M = ratio_M - 1 - log_ratio_M
                    kl = kl_M.mean()
                    kl_K.index_add_(0, k_M, kl_M)
                    clipped_K.index_add_(0, k_M, ((ratio_M - 1).abs() > self._clip_K[k_M]).float())
                    seen_K.index_add_(0, k_M, torch.ones_like(kl_M))
                self._step(policy_loss + config.bc_scale * bc_kl + config.value_scale * value_loss)
                losses.append(torch.stack([value_loss, policy_loss, bc_kl, kl]).detach())
            if trains_actor and torch.stack(losses[first:])[:, 3].mean() > config.target_kl:
                break
        self.iteration += 1
        self._check_weights()
        value, policy, bc, approx_kl = torch.stack(losses).mean(0).tolist()
        seen_K.clamp_(min=1)
        return {
            "value_loss": None if self._critic is None else value,
            "policy_loss": policy,
            "bc_kl": bc,
            "approx_kl": approx_kl,
            "approx_kl_by_k": (kl_K / seen_K).tolist(),
            "clip_fraction_by_k": (clipped_K / seen_K).tolist(),
            "explained_variance": explained_variance,
            "actor_distance": self._actor_distance(),
            "gradient_steps": len(losses),
        }

    @torch.no_grad()
    def _advantages(
        self, rollout: Rollout
    ) -> tuple[torch.Tensor, torch.Tensor | None, float | None]:
        """Advantages [D, B]; with a critic returns [D, B], and how much of these it explains."""
        config = self._config
        if self._critic is None:
            advantage_DB = group_advantage(
                rollout.reward, config.max_decisions, config.group, config.gamma
            )
            return advantage_DB, None, None
        terminated_DB, truncated_DB = rollout.terminated, rollout.truncated
        reward_DB = self._reward_scaler(rollout.reward, terminated_DB | truncated_DB)
        value_DB = self._critic(rollout.feature).squeeze(-1)
        next_value_DB = self._critic(rollout.next_feature).squeeze(-1)
        advantage_DB = gae(
            reward_DB,
            value_DB,
            next_value_DB,
            terminated_DB,
            truncated_DB,
            config.gamma,
            config.gae_lambda,
        )
        return_DB = advantage_DB + value_DB
        # Without the correction, which has no value for a single decision.
        error, spread = (return_DB - value_DB).var(correction=0), return_DB.var(correction=0)
        return advantage_DB, return_DB, float(1 - error / spread.clamp(1e-8))

    @torch.no_grad()
    def _pairs(
        self, rollout: Rollout, advantage_DB: torch.Tensor, return_DB: torch.Tensor | None
    ) -> Pairs:
        """Every fine-tuned denoising step of every decision that counts.

        The chains and the base are fixed: its means are evaluated once, not once per minibatch.
        """
        active, steps = rollout.active.flatten(), self._config.finetuned_steps
        feature_NF = rollout.feature.flatten(0, 1)[active]
        chain_NLA = rollout.chain.flatten(0, 1)[active]
        noisy_PA, cleaner_PA = chain_NLA[:, :-1].flatten(0, 1), chain_NLA[:, 1:].flatten(0, 1)
        count, device = len(feature_NF), feature_NF.device
        decision_P = torch.arange(count, device=device).repeat_interleave(steps)
        k_P = torch.arange(steps - 1, -1, -1, device=device).repeat(count)
        mean_PA = self._means(self.policy.actor, feature_NF, decision_P, noisy_PA, k_P)
        return Pairs(
            feature_NF=feature_NF,
            advantage_N=advantage_DB.flatten()[active],
            return_N=None if return_DB is None else return_DB.flatten()[active],
            decision_P=decision_P,
            k_P=k_P,
            noisy_PA=noisy_PA,
            cleaner_PA=cleaner_PA,
            log_prob_P=log_prob(cleaner_PA, mean_PA, self._std[k_P]),
            base_mean_PA=self._means(self.policy.base, feature_NF, decision_P, noisy_PA, k_P),
        )

    def _minibatches(self, decisions: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Shuffled indices of pairs, int64 [M], that cover every pair once."""
        config, steps = self._config, self._config.finetuned_steps
        device = self._clip_K.device
        if config.minibatch_over == "pair":
            order_P = torch.randperm(
                decisions * steps, generator=generator, device=generator.device
            )
            yield from order_P.to(device).split(config.minibatch)
            return
        order_N = torch.randperm(decisions, generator=generator, device=generator.device)
        for decision_R in order_N.to(device).split(config.minibatch):
            yield (decision_R.unsqueeze(1) * steps + torch.arange(steps, device=device)).flatten()

    def _value_loss(
        self, pairs: Pairs, decision_R: torch.Tensor, row_M: torch.Tensor
    ) -> torch.Tensor:
        """Half the squared error of the critic, in which a decision counts once per pair; or 0."""
        if self._critic is None or pairs.return_N is None:
            return torch.zeros((), device=row_M.device)
        value_R = self._critic(pairs.feature_NF[decision_R]).squeeze(-1)
        error_M = (value_R - pairs.return_N[decision_R])[row_M]
        return 0.5 * error_M.square().mean()

    def _policy_loss(
        self, pairs: Pairs, pair_M: torch.Tensor, decision_R: torch.Tensor, row_M: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clipped policy loss, KL to the base, and the log-ratio [M] of new to old policy."""
        k_M = pairs.k_P[pair_M]
        std_M, clip_M = self._std[k_M], self._clip_K[k_M]
        mean_MA = self._means(
            self.policy.actor, pairs.feature_NF[decision_R], row_M, pairs.noisy_PA[pair_M], k_M
        )
        log_prob_M = log_prob(pairs.cleaner_PA[pair_M], mean_MA, std_M)
        log_ratio_M = log_prob_M - pairs.log_prob_P[pair_M]
        ratio_M = log_ratio_M.exp()
        clipped_M = torch.maximum(torch.minimum(ratio_M, 1 + clip_M), 1 - clip_M)
        advantage_M = pairs.advantage_N[decision_R][row_M]
        if self._critic is not None:  # groups are centred and scaled already, each by itself
            centred_M = advantage_M - advantage_M.mean()
            advantage_M = centred_M / (advantage_M.std(correction=0) + 1e-8)
        advantage_M = advantage_M * self._discount_K[k_M]
        policy_loss = torch.maximum(-advantage_M * ratio_M, -advantage_M * clipped_M).mean()
        bc_kl = gaussian_kl(pairs.base_mean_PA[pair_M], mean_MA, std_M)
        return policy_loss, bc_kl, log_ratio_M.detach()

    def _step(self, loss: torch.Tensor) -> None:
        """One step of actor and critic, which share no weights; of the critic while it warms up."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self._optimizers.values():
            optimizer.step()

    def _means(
        self,
        network: DiffusionMlp,
        feature_RF: torch.Tensor,
        row_M: torch.Tensor,
        noisy_MA: torch.Tensor,
        k_M: torch.Tensor,
    ) -> torch.Tensor:
        """Posterior means [M, A] of ``noisy_MA`` at steps ``k_M`` for ``feature_RF[row_M]``."""
        condition_MH = network.condition(feature_RF)[row_M]
        hidden_MH = condition_MH + functional.embedding(k_M, network.step_table())
        return self.policy.schedule.mean(noisy_MA, network.denoise(noisy_MA, hidden_MH), k_M)

    def _check_weights(self) -> None:
        for name, network in (("actor", self.policy.actor), ("critic", self._critic)):
            if network is not None:
                when = f"finetune, iteration {self.iteration}, {name}"
                check_weights(network, when, f"lower finetune.{name}_lr")

    @torch.no_grad()
    def _actor_distance(self) -> float:
        """Relative distance between the weights of actor and base."""
        base = nn.utils.parameters_to_vector(self.policy.base.parameters())
        actor = nn.utils.parameters_to_vector(self.policy.actor.parameters())
        return float((actor - base).norm() / base.norm())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, the frozen base aside."""
        state: dict[str, Any] = {
            "actor": self.policy.actor.state_dict(),
            "actor_optimizer": self._optimizers["actor"].state_dict(),
            "critic": None,
            "iteration": self.iteration,
        }
        if self._critic is not None:
            state["critic"] = {
                "network": self._critic.state_dict(),
                "optimizer": self._optimizers["critic"].state_dict(),
                "scaler": self._reward_scaler.state_dict(),
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.actor.load_state_dict(state["actor"])
        self._optimizers["actor"].load_state_dict(state["actor_optimizer"])
        if self._critic is not None:
            self._critic.load_state_dict(state["critic"]["network"])
            self._optimizers["critic"].load_state_dict(state["critic"]["optimizer"])
            self._reward_scaler.load_state_dict(state["critic"]["scaler"])
        self.iteration = state["iteration"]


def clip_ranges(steps: int, base: float, maximum: float) -> torch.Tensor:
    """Clip range of every fine-tuned step [K] by k: ``base`` at k = K-1, ``maximum`` at k = 0."""
    if steps == 1:
        return torch.tensor([maximum])
    progress_K = torch.linspace(1.0, 0.0, steps)
    growth_K = torch.expm1(CLIP_GROWTH * progress_K) / math.expm1(CLIP_GROWTH)
    return base + (maximum - base) * growth_K


def gaussian_kl(
    base_mean_MA: torch.Tensor, mean_MA: torch.Tensor, std_M: torch.Tensor
) -> torch.Tensor:
    """KL divergence of Gaussians with equal ``std_M``, per dimension, averaged over [M, A].

    The closed form of cloning the base's chains, with less variance (docs/algorithm.md 6.5).
    """
    return ((base_mean_MA - mean_MA).square().mean(-1) / (2 * std_M.square())).mean()


def experience_report(rollout: Rollout) -> dict[str, Any]:
    """What the experience says about the policy that collected it."""
    success_DB, ended_DB = rollout.terminated, rollout.terminated | rollout.truncated
    successes, finished = int(success_DB.sum()), int(ended_DB.sum())
    age_B = torch.zeros_like(rollout.reward[0])
    ages = []
    for ended_B, active_B in zip(ended_DB, rollout.active, strict=True):
        age_B = age_B + active_B
        ages.append(age_B)
        age_B = age_B * ~ended_B
    chunk_NA = rollout.chain[:, :, -1][rollout.active]
    motion = chunk_NA.unflatten(-1, (-1, ACTION_SIZE))[..., :6]
    return {
        "explored_success": successes / finished if finished else None,
        "finished_episodes": finished,
        "success_decision": float(torch.stack(ages)[success_DB].mean()) if successes else None,
        "clamped_actions": float((motion.abs() > 1).float().mean()),
    }


def mean_penalty(rollout: Rollout) -> float:
    """How much less than the success the reward of a decision is, on average."""
    return float((rollout.terminated.float() - rollout.reward)[rollout.active].mean())
