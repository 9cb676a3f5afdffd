"""Policies in the simulator: the online filter, chunked execution and the controls.

All starts of a task advance together in one batch of fixed composition: an episode that has ended
keeps its row. Every episode owns its random numbers and its physics client, so an outcome depends
neither on the number of workers nor on the other episodes' fate.

Where every episode needs a process, so many as there are workers advance at a time. The models
compute the whole batch for each of these groups, which makes the outcomes the same to the last bit,
and their share of the time longer by the number of groups.
"""

from collections.abc import Callable, Sequence
from itertools import chain
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
    ones of an episode that succeeded may not all have been executed"""
    features: torch.Tensor
    """float32 [D, B, F], of the last observation of every chunk, with every frame seen"""
    decisions: torch.Tensor
    """int64 [B], how many decisions each episode lasted, with its aftermath; chunks, features and
    scenes behind them mean nothing"""
    scene_obs: torch.Tensor
    """float64 [D, B, 24], behind every chunk"""


class Outcome(NamedTuple):
    """What became of the episodes of one batch."""

    success: np.ndarray
    """bool [B]"""
    steps: np.ndarray
    """int [B], environment steps until success or the end"""
    actions: Sequence[np.ndarray]
    """B times float64 [T, 7], what was executed until success or the end"""


class Agent(NamedTuple):
    """A policy with the world model whose features it reads."""

    world_model: WorldModel
    normalizer: ProprioNormalizer
    policy: Policy
    filtering: Filtering
    device: torch.device
    ddim_steps: int | None = None
    """Deterministic steps of the policy's sampler; None: all the stochastic ones."""
    look_every: int = 1
    """Frames between two looks; 0: at the first frame alone."""


def roll_out(
    agent: Agent, pool: EnvPool, episodes: Sequence[Episode], max_steps: int, tally: Tally
) -> tuple[Outcome, Experience]:
    """Let ``agent`` act from every start, in chunks executed open loop (docs/algorithm.md 3.4).

    The chunk is executed step by step, and the policy acts on the feature behind the last one, of
    all observations or of those that the agent looks at. An episode succeeds once, and ends with
    the aftermath of that or after ``max_steps`` steps; the outcome knows nothing of an aftermath,
    the experience holds it.
    """
    filtered = FilteredPool(
        pool,
        agent.world_model,
        agent.normalizer,
        agent.filtering,
        agent.device,
        agent.look_every,
    )
    steps = np.zeros(len(episodes), np.int64)
    success = np.zeros(len(episodes), bool)
    executed: list[list[np.ndarray]] = [[] for _ in episodes]
    first: list[torch.Tensor] = []
    chunks: list[torch.Tensor] = []
    features: list[torch.Tensor] = []
    scenes: list[torch.Tensor] = []
    decisions = torch.zeros(len(episodes), dtype=torch.int64, device=agent.device)
    for rows in pool.groups(len(episodes)):
        filtered.start(episodes, rows)
        _keep(first, 0, rows, filtered.feature)
        for decision, start in enumerate(range(0, max_steps, CHUNK)):
            chunk = agent.policy.act(filtered.feature, filtered.generators, agent.ddim_steps)
            chunk = chunk[:, : max_steps - start]
            result = filtered.step(chunk)
            _keep(chunks, decision, rows, chunk)
            _keep(features, decision, rows, filtered.seen)
            if decision == len(scenes):
                scenes.append(torch.zeros(len(episodes), 24, dtype=torch.float64))
            scenes[decision][rows] = torch.from_numpy(result.observations.scene_obs[:, -1])
            decisions[rows] += torch.from_numpy(result.steps > 0).to(agent.device)
            counted = result.counted
            steps[rows] += counted
            for own, taken, count in zip(executed[rows], result.actions, counted, strict=True):
                own.append(taken[:count])
            ended = int((result.success & ~success[rows]).sum())
            tally(ended, ended)
            success[rows] = result.success
            if result.over.all():
                break
        tally(int((~success[rows]).sum()), 0)
    behind = torch.stack(scenes).to(agent.device)
    experience = Experience(first[0], chunks, torch.stack(features), decisions, behind)
    return Outcome(success, steps, [np.concatenate(own) for own in executed]), experience


def execute(
    pool: EnvPool, episodes: Sequence[Episode], chunks: Sequence[torch.Tensor], max_steps: int
) -> np.ndarray:
    """bool [B], which of the episodes succeed within ``max_steps`` by chunks chosen before.

    ``chunks`` are D times [B, 4, 7], executed open loop.
    """
    success = np.zeros(len(episodes), bool)
    for rows in pool.groups(len(episodes)):
        pool.start(episodes[rows])
        for chunk, start in zip(chunks, range(0, max_steps, CHUNK), strict=False):
            result = pool.step(chunk[rows, : max_steps - start].cpu().numpy())
            success[rows] = result.success
            if result.over.all():
                break
    return success


def _keep(kept: list[torch.Tensor], at: int, rows: slice, values: torch.Tensor) -> None:
    """Put the ``rows`` of ``values`` [B, ...] in place ``at``, which may be the next one."""
    if at == len(kept):
        kept.append(values.clone())
    else:
        kept[at][rows] = values[rows]


def run_control(
    control: str, pool: EnvPool, episodes: Sequence[Episode], max_steps: int, tally: Tally
) -> Outcome:
    """Let the ``expert`` or ``zero`` control act from every start, beside the simulator."""
    results = []
    for rows in pool.groups(len(episodes)):
        pool.start(episodes[rows])
        results.append(pool.follow(CONTROLS[control], max_steps))
        tally(len(results[-1].success), int(results[-1].success.sum()))
    success, steps = (
        np.concatenate([getattr(result, name) for result in results])
        for name in ("success", "counted")
    )
    taken = chain.from_iterable(result.actions for result in results)
    return Outcome(success, steps, [own[:count] for own, count in zip(taken, steps, strict=True)])
