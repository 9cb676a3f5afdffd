"""How much better a decision was than expected: the weights of policy gradients.

Shapes: N decisions in time, E environments.
"""

import math

import torch

from wam.errors import WamError

REWARD_GAMMA = 0.99
"""Discount of the running return whose spread scales the rewards."""
MAX_REWARD = 10.0
"""Scaled rewards are clipped to this size."""
GROUP_EPS = 0.1
"""Added to the spread of a group's returns. Successes at different decisions, which a discount near
1 hardly tells apart, do not weigh like success against failure."""


def gae(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Generalised advantage estimates [N, E] (arXiv:1506.02438).

    ``next_value`` belongs to the state reached before any reset; a termination makes it 0, a
    truncation bootstraps from it, and both end the sum.
    """
    delta = reward + gamma * next_value * ~terminated - value
    carry = gamma * lam * ~(terminated | truncated)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for n in reversed(range(len(delta))):
        running = delta[n] + carry[n] * running
        advantage[n] = running
    return advantage


def group_advantage(
    reward: torch.Tensor, max_decisions: int, group: int, gamma: float
) -> torch.Tensor:
    """Advantages [N, E] of episodes within the groups that share their starts; no critic.

    ``reward`` [N, E] of rounds of ``max_decisions`` decisions, one episode each, 0 where an
    environment waits for the end of its round; every ``group`` environments in a row are a group.
    All decisions of an episode get (return - mean) / (std + GROUP_EPS) of the group, 0 where all
    returns are equal. ``gamma`` discounts per decision: an earlier success is worth more. Group
    relative policy optimisation (GRPO, arXiv:2402.03300; in a world model WMPO, arXiv:2511.09515).
    Raises WamError if N holds no whole rounds, or E no whole groups.
    """
    if len(reward) % max_decisions:
        raise WamError(
            f"finetune.steps={len(reward)} is not a multiple of "
            f"finetune.max_decisions={max_decisions}: groups are compared by whole episodes"
        )
    check_groups(reward.shape[1], group)
    discount = gamma ** torch.arange(max_decisions, device=reward.device)
    returns = (reward.unflatten(0, (-1, max_decisions)) * discount.view(1, -1, 1)).sum(1)
    by_group = returns.unflatten(1, (-1, group))
    centred = by_group - by_group.mean(-1, keepdim=True)
    advantage = centred / (by_group.std(-1, correction=0, keepdim=True) + GROUP_EPS)
    unanimous = by_group.amax(-1, keepdim=True) == by_group.amin(-1, keepdim=True)
    advantage = advantage.masked_fill(unanimous, 0.0)
    return advantage.flatten(1).repeat_interleave(max_decisions, dim=0)


def check_groups(envs: int, group: int) -> None:
    """Raise WamError unless ``envs`` environments are whole groups of at least two."""
    if group < 2:
        raise WamError(f"finetune.group={group}: an episode needs at least one to compare with")
    if envs % group:
        raise WamError(f"finetune.envs={envs} is not a multiple of finetune.group={group}")


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return.

    The statistics span all iterations; the mean is not subtracted.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._variance = 1e-4, 0.0, 1.0

    def __call__(self, reward: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Scaled ``reward`` [N, E] of environments that were all reset before the first row."""
        running = torch.zeros_like(reward[0])
        returns = []
        for row, ended in zip(reward, done, strict=True):
            running = running * REWARD_GAMMA + row
            returns.append(running)
            running = running * ~ended
        stds = []
        stacked = torch.stack(returns)
        moments = torch.stack([stacked.mean(1), stacked.var(1, correction=0)], dim=1)
        for mean, variance in moments.tolist():
            self._merge(mean, variance, reward.shape[1])
            stds.append(math.sqrt(self._variance + 1e-8))
        scaled = reward / torch.tensor(stds, device=reward.device).unsqueeze(1)
        return scaled.clamp(-MAX_REWARD, MAX_REWARD)

    def state_dict(self) -> dict[str, float]:
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._count, self._mean = state["count"], state["mean"]
        self._variance = state["variance"]

    def _merge(self, mean: float, variance: float, count: int) -> None:
        total = self._count + count
        delta = mean - self._mean
        spread = self._variance * self._count + variance * count
        spread += delta**2 * self._count * count / total
        self._mean += delta * count / total
        self._count, self._variance = total, spread / total
