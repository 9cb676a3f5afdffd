"""A batched environment inside a frozen world model (algorithm contract 3.5, 6.1, 6.7).

Shapes: B environments, F feature. Nothing leaves the device.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from wam.errors import WamError
from wam.random import Generators, uniform


class LatentDynamics(Protocol):
    """What imagination needs of a world model; a state is anything with a ``feature`` [B, F]."""

    def split(self, feature: torch.Tensor) -> Any:
        """The state of a feature [B, F]."""

    def imagine_step(self, state: Any, action: torch.Tensor, generator: Generators) -> Any:
        """The state after ``action`` [B, 7], sampled from the prior."""


class Success(Protocol):
    """What imagination needs of a reward classifier."""

    def success(self, feature: torch.Tensor) -> torch.Tensor:
        """bool [B] for ``feature`` [B, F]."""


class Acting(Protocol):
    """What imagination needs of a policy."""

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        """Executable chunk [B, 4, 7] for ``feature`` [B, F]."""


class Transition(NamedTuple):
    """The outcome of one decision in every environment."""

    feature: torch.Tensor
    """float32 [B, F], the state reached, before any reset"""
    reward: torch.Tensor
    """float32 [B], 1 on success"""
    terminated: torch.Tensor
    """bool [B], success"""
    truncated: torch.Tensor
    """bool [B], out of decisions without success"""


class Environment(Protocol):
    """B environments from which experience is collected, finished episodes already reset."""

    @property
    def feature(self) -> torch.Tensor:
        """float32 [B, F], the current state."""

    def reset(self) -> torch.Tensor:
        """Start every environment anew; the start features [B, F]."""

    def step(self, action: torch.Tensor) -> Transition:
        """Execute a chunk of executable actions [B, 4, 7]."""


class LatentEnv:
    """Environments that start from recorded states and end on imagined success or after a limit.

    ``starts`` holds groups of start features [M, F]; a reset draws a group (all equally often),
    then a row of it. ``feature`` float32 [B, F] is the current state, finished episodes already
    reset.
    """

    def __init__(
        self,
        dynamics: LatentDynamics,
        classifier: Success,
        starts: Sequence[torch.Tensor],
        envs: int,
        max_decisions: int,
        generator: torch.Generator,
    ) -> None:
        groups = [group for group in starts if len(group)]
        if not groups:
            raise WamError("imagination: no start states; expected at least one demonstration")
        self._dynamics, self._classifier = dynamics, classifier
        self._max_decisions, self._generator = max_decisions, generator
        self._starts = torch.cat(groups)
        sizes = torch.tensor([len(group) for group in groups], device=self._starts.device)
        self._group_size, self._group_first = sizes, sizes.cumsum(0) - sizes
        self._envs = envs
        self.feature = self.reset()

    def reset(self) -> torch.Tensor:
        """Start every environment anew; the start features [B, F]."""
        self._age = torch.zeros(self._envs, dtype=torch.int64, device=self._starts.device)
        self.feature = self._draw()
        return self.feature

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> Transition:
        """Execute a chunk of executable actions [B, 4, 7] and score the state behind it."""
        reached = _imagine(self._dynamics, self.feature, action, self._generator)
        terminated = self._classifier.success(reached)
        self._age += 1
        truncated = (self._age >= self._max_decisions) & ~terminated
        finished = terminated | truncated
        # Drawn for every environment: the random stream does not depend on who finished.
        self.feature = torch.where(finished.unsqueeze(-1), self._draw(), reached)
        self._age = self._age.masked_fill(finished, 0)
        return Transition(reached, terminated.float(), terminated, truncated)

    def _draw(self) -> torch.Tensor:
        device = self._starts.device
        group, row = uniform((2, self._envs), self._generator, device).unbind()
        group = (group * len(self._group_size)).long()
        row = (row * self._group_size[group]).long()
        return self._starts[self._group_first[group] + row]


@torch.no_grad()
def imagined_outcome(
    dynamics: LatentDynamics,
    classifier: Success,
    policy: Acting,
    starts: torch.Tensor,
    max_decisions: int,
    generator: Generators,
) -> torch.Tensor:
    """bool [M]: from which ``starts`` [M, F] the policy, sampled as at evaluation, succeeds."""
    feature = starts
    succeeded = torch.zeros(len(starts), dtype=torch.bool, device=starts.device)
    for _ in range(max_decisions):
        action = policy.act(feature, generator)
        feature = _imagine(dynamics, feature, action, generator)
        succeeded |= classifier.success(feature)
    return succeeded


def imagined_success(
    dynamics: LatentDynamics,
    classifier: Success,
    policy: Acting,
    starts: torch.Tensor,
    max_decisions: int,
    generator: Generators,
) -> float:
    """Share of the ``starts`` [M, F] from which the policy succeeds."""
    outcome = imagined_outcome(dynamics, classifier, policy, starts, max_decisions, generator)
    return float(outcome.float().mean())


@torch.no_grad()
def replayed_features(
    dynamics: LatentDynamics,
    start: torch.Tensor,
    chunks: torch.Tensor,
    generator: Generators,
) -> torch.Tensor:
    """Features [D, B, F] imagined behind each of the chunks [D, B, 4, 7] from ``start`` [B, F]."""
    features = []
    for chunk in chunks:
        start = _imagine(dynamics, start, chunk, generator)
        features.append(start)
    return torch.stack(features)


def _imagine(
    dynamics: LatentDynamics,
    feature: torch.Tensor,
    action: torch.Tensor,
    generator: Generators,
) -> torch.Tensor:
    """The feature behind the actions [B, steps, 7]."""
    state = dynamics.split(feature)
    for step in range(action.shape[1]):
        state = dynamics.imagine_step(state, action[:, step], generator)
    return state.feature
