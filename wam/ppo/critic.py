"""The critic of DPPO: the value of the states in which decisions are made (algorithm contract 6.4).

Shapes: N decisions in time, E environments, F feature, D = N * E decisions in a row, M pairs of a
minibatch.
"""

from typing import Any, NamedTuple

import torch

from wam.config import FinetuneConfig
from wam.policy.network import ResidualMlp
from wam.ppo.advantage import RewardScaler, gae
from wam.ppo.experience import Rollout
from wam.randomness import seeded
from wam.reliability.finite import check_weights


class Estimate(NamedTuple):
    """What is made of the experience of one iteration."""

    advantage: torch.Tensor
    """float32 [D]"""
    returns: torch.Tensor | None
    """float32 [D], what the critic is to predict; None without a critic"""
    explained_variance: float | None
    """Share of the returns' variance that it predicts already"""


class Critic:
    """A value network with its optimiser and the scale of the rewards."""

    def __init__(
        self,
        feature: int,
        config: FinetuneConfig,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        """``generator`` (CPU) makes the network."""
        self._config = config
        with seeded(generator):
            self._network = ResidualMlp(feature, config.critic_hidden, 1).to(device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=config.critic_lr, weight_decay=0.0, fused=True
        )
        self._scaler = RewardScaler()

    @torch.no_grad()
    def estimate(self, rollout: Rollout) -> Estimate:
        """Generalised advantage estimates of every decision."""
        config = self._config
        value = self._network(rollout.feature).squeeze(-1)
        next_value = self._network(rollout.next_feature).squeeze(-1)
        terminated, truncated = rollout.terminated, rollout.truncated
        reward = self._scaler(rollout.reward, terminated | truncated)
        advantage = gae(
            reward, value, next_value, terminated, truncated, config.gamma, config.gae_lambda
        )
        returns = advantage + value
        # Without the correction, which has no value for a single decision.
        unexplained = (returns - value).var(correction=0) / returns.var(correction=0).clamp(1e-8)
        return Estimate(advantage.flatten(), returns.flatten(), float(1 - unexplained))

    def step(
        self, feature: torch.Tensor, returns: torch.Tensor, decision: torch.Tensor
    ) -> torch.Tensor:
        """One gradient step; the loss before it.

        ``decision`` int64 [M] are rows of ``feature`` [D, F] and ``returns`` [D]; one that occurs
        several times counts as often.
        """
        row, inverse = decision.unique(return_inverse=True)
        value = self._network(feature[row]).squeeze(-1)
        error = (value - returns[row])[inverse]
        loss = 0.5 * error.square().mean()
        self._optimizer.zero_grad()
        (self._config.value_scale * loss).backward()
        self._optimizer.step()
        return loss.detach()

    def check(self, when: str) -> None:
        """Raises WamError if a weight is not finite."""
        check_weights(self._network, f"{when}, critic", "lower finetune.critic_lr")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
