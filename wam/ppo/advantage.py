"""How much better a decision was than expected: the weights of policy gradients.

Shape suffixes: D = decisions in time, B = environments, R = rounds of T decisions, G = groups of M
environments that share their starts.
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
    reward_DB: torch.Tensor,
    value_DB: torch.Tensor,
    next_value_DB: torch.Tensor,
    terminated_DB: torch.Tensor,
    truncated_DB: torch.Tensor,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Generalised advantage estimates [D, B] (arXiv:1506.02438).

    ``next_value_DB`` belongs to the state reached before any reset; a termination makes it 0, a
    truncation bootstraps from it, and both end the sum.
    """
    delta_DB = reward_DB + gamma * next_value_DB * ~terminated_DB - value_DB
    carry_DB = gamma * lam * ~(terminated_DB | truncated_DB)
    advantage_DB = torch.empty_like(delta_DB)
    running_B = torch.zeros_like(delta_DB[0])
    for d in reversed(range(len(delta_DB))):
        running_B = delta_DB[d] + carry_DB[d] * running_B
        advantage_DB[d] = running_B
    return advantage_DB


def group_advantage(
    reward_DB: torch.Tensor, max_decisions: int, group: int, gamma: float
) -> torch.Tensor:
    """Advantages [D, B] of episodes within the groups that share their starts; no critic.

    ``reward_DB`` of rounds of ``max_decisions`` decisions, one episode each, 0 where an
    environment waits for the end of its round; every ``group`` environments in a row are a group.
    All decisions of an episode get (return - mean) / (std + GROUP_EPS) of the group, 0 where all
    returns are equal. ``gamma`` discounts per decision: an earlier success is worth more. Group
    relative policy optimisation (GRPO, arXiv:2402.03300; in a world model WMPO, arXiv:2511.09515).
    Raises WamError if D holds no whole rounds, or B no whole groups.
    """
    if len(reward_DB) % max_decisions:
        raise WamError(
            f"finetune.steps={len(reward_DB)} is not a multiple of "
            f"finetune.max_decisions={max_decisions}: groups are compared by whole episodes"
        )
    check_groups(reward_DB.shape[1], group)
    discount_T = gamma ** torch.arange(max_decisions, device=reward_DB.device)
    reward_RTB = reward_DB.unflatten(0, (-1, max_decisions))
    return_RB = (reward_RTB * discount_T.view(1, -1, 1)).sum(1)
    return_RGM = return_RB.unflatten(1, (-1, group))
    centred_RGM = return_RGM - return_RGM.mean(-1, keepdim=True)
    advantage_RGM = centred_RGM / (return_RGM.std(-1, correction=0, keepdim=True) + GROUP_EPS)
    unanimous_RG1 = return_RGM.amax(-1, keepdim=True) == return_RGM.amin(-1, keepdim=True)
    advantage_RGM = advantage_RGM.masked_fill(unanimous_RG1, 0.0)
    return advantage_RGM.flatten(1).repeat_interleave(max_decisions, dim=0)


def signal(success: float | None, floor: float) -> float:
    """How much there is to learn from episodes of which the share ``success`` succeeded, at most 1.

    Their outcomes' standard deviation as a share of ``floor``; 0 if none ended.
    """
    if success is None:
        return 0.0
    return min(1.0, math.sqrt(success * (1.0 - success)) / floor)


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

    def __call__(self, reward_DB: torch.Tensor, done_DB: torch.Tensor) -> torch.Tensor:
        """Scaled rewards [D, B] of environments that were all reset before the first row."""
        running_B = torch.zeros_like(reward_DB[0])
        returns = []
        for reward_B, done_B in zip(reward_DB, done_DB, strict=True):
            running_B = running_B * REWARD_GAMMA + reward_B
            returns.append(running_B)
            running_B = running_B * ~done_B
        return_DB = torch.stack(returns)
        moments = torch.stack([return_DB.mean(1), return_DB.var(1, correction=0)], dim=1)
        stds = []
        for mean, variance in moments.tolist():
            self._merge(mean, variance, reward_DB.shape[1])
            stds.append(math.sqrt(self._variance + 1e-8))
        std_D = torch.tensor(stds, device=reward_DB.device)
        return (reward_DB / std_D.unsqueeze(1)).clamp(-MAX_REWARD, MAX_REWARD)

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
