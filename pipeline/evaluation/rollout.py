"""Policies in the simulator: the online filter, chunked execution and the controls.

All starts of a task advance together in one batch of fixed composition: an episode that has ended
keeps its row. Every episode owns its random numbers and its physics client, so an outcome depends
neither on the number of workers nor on the other episodes' fate.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from wam.config import CHUNK, Filtering
from wam.envs.controls import CONTROLS
from wam.envs.episode import Episode
from wam.envs.filtered import FilteredPool
from wam.envs.pool import EnvPool
from wam.policy.policy import Policy
from wam.proprio import ProprioNormalizer
from wam.world_model.model import WorldModel

Tally = Callable[[int, int], None]
"""Called with the number of further episodes that ended and how many of those were successes."""


class Experience(NamedTuple):
    """What an agent saw and did in B episodes of at most D decisions, on its device."""

    first: torch.Tensor
    """float32 [B, F], feature of the first observation"""
    chunks: Sequence[torch.Tensor]
    """D times float32 [B, 4, 7], executable actions, fewer than 4 where the steps ran out; the last
    ones of a success were not all executed"""
    features: torch.Tensor
    """float32 [D, B, F], feature of the last observation of every chunk"""
    decisions: torch.Tensor
    """int64 [B], how many decisions each episode lasted"""


class Outcome(NamedTuple):
    """What became of the episodes of one batch."""

    success: np.ndarray
    """bool [B]"""
    steps: np.ndarray
    """int [B], environment steps until success or the end"""
    actions: np.ndarray
    """float64 [T, 7], what the first episode executed"""


class Agent(NamedTuple):
    """A policy with the world model whose features it reads."""

    world_model: WorldModel
    normalizer: ProprioNormalizer
    policy: Policy
    filtering: Filtering
    device: torch.device
    ddim_steps: int | None = None
    """Deterministic steps of the policy's sampler; None: all the stochastic ones."""


def roll_out(
    agent: Agent, pool: EnvPool, episodes: Sequence[Episode], max_steps: int, tally: Tally
) -> tuple[Outcome, Experience]:
    """Let ``agent`` act from every start, in chunks executed open loop (docs/algorithm.md 3.4).

    The chunk is executed step by step; the filter sees every observation, the policy only the
    feature of the last one. An episode ends at its first success or after ``max_steps`` steps.
    """
    filtered = FilteredPool(
        pool, agent.world_model, agent.normalizer, agent.filtering, agent.device
    )
    filtered.start(episodes)
    steps = np.zeros(len(episodes), np.int64)
    success = np.zeros(len(episodes), bool)
    executed: list[np.ndarray] = []
    first, chunks, features = filtered.feature, [], []
    decisions = torch.zeros(len(episodes), dtype=torch.int64, device=agent.device)
    for start in range(0, max_steps, CHUNK):
        chunk = agent.policy.act(filtered.feature, filtered.generators, agent.ddim_steps)
        chunk = chunk[:, : max_steps - start]
        result = filtered.step(chunk)
        chunks.append(chunk)
        features.append(filtered.feature)
        decisions += torch.from_numpy(result.steps > 0).to(agent.device)
        steps += result.steps
        executed.append(result.actions[0, : result.steps[0]])
        ended = int((result.success & ~success).sum())
        tally(ended, ended)
        success = result.success
        if success.all():
            break
    tally(int((~success).sum()), 0)
    experience = Experience(first, chunks, torch.stack(features), decisions)
    return Outcome(success, steps, np.concatenate(executed)), experience


def run_control(
    control: str, pool: EnvPool, episodes: Sequence[Episode], max_steps: int, tally: Tally
) -> Outcome:
    """Let the ``expert`` or ``zero`` control act from every start, beside the simulator."""
    pool.start(episodes)
    result = pool.follow(CONTROLS[control], max_steps)
    tally(len(episodes), int(result.success.sum()))
    return Outcome(result.success, result.steps, result.actions[0, : result.steps[0]])
