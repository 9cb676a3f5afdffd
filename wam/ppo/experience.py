"""Experience of a policy, and what it says about the policy.

Shapes: N decisions in time, E environments, J fine-tuned steps, F feature, A values of a chunk.
"""

from typing import Any, NamedTuple

import torch

from wam.config import ACTION_SIZE
from wam.policy.policy import FinetunedPolicy, to_actions
from wam.ppo.imagination import Environment


class Rollout(NamedTuple):
    """Experience of one iteration."""

    feature: torch.Tensor
    """float32 [N, E, F], what the policy saw"""
    chain: torch.Tensor
    """float32 [N, E, J+1, A], latents of the fine-tuned steps, not clamped"""
    reward: torch.Tensor
    """float32 [N, E]"""
    terminated: torch.Tensor
    """bool [N, E]"""
    truncated: torch.Tensor
    """bool [N, E]"""
    next_feature: torch.Tensor
    """float32 [N, E, F], the state reached, before any reset"""
    active: torch.Tensor
    """bool [N, E]; False: the environment waited and the row means nothing"""


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
        feature = env.feature
        chain = policy.explore(feature, generator, min_std)
        reached, *outcome, active = env.step(to_actions(chain[:, -1]))
        rows.append((feature, chain, *outcome, reached, active))
    return Rollout(*(torch.stack(column) for column in zip(*rows, strict=True)))


def mean_penalty(rollout: Rollout) -> float:
    """How much less than the success the reward of a decision is, on average."""
    return float((rollout.terminated.float() - rollout.reward)[rollout.active].mean())


def experience_report(rollout: Rollout) -> dict[str, Any]:
    """What the experience says about the policy that collected it."""
    success, truncated = rollout.terminated, rollout.truncated
    successes, finished = int(success.sum()), int((success | truncated).sum())
    age = torch.zeros_like(rollout.reward[0])
    ages = []
    for ended, active in zip(success | truncated, rollout.active, strict=True):
        age = age + active
        ages.append(age)
        age = age * ~ended
    chunk = rollout.chain[:, :, -1][rollout.active]
    motion = chunk.unflatten(-1, (-1, ACTION_SIZE))[..., :6]
    return {
        "explored_success": successes / finished if finished else None,
        "finished_episodes": finished,
        "success_decision": float(torch.stack(ages)[success].mean()) if successes else None,
        "clamped_actions": float((motion.abs() > 1).float().mean()),
    }
