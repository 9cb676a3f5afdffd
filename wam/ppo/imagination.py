"""A batched environment inside a frozen world model (docs/algorithm.md 3.5, 6.1, 6.7).

Shapes: B environments, F feature. Nothing leaves the device.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from wam.errors import WamError
from wam.ppo.advantage import check_groups
from wam.randomness import Generators, uniform


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


class Uncertainty(Protocol):
    """What imagination needs of an ensemble that tells how far a state is from the data."""

    def excess(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """float32 [...], finite, 0 on the data, for ``feature`` [..., F], ``action`` [..., 7]."""


class Transition(NamedTuple):
    """The outcome of one decision in every environment."""

    feature: torch.Tensor
    """float32 [B, F], the state reached, before any reset"""
    reward: torch.Tensor
    """float32 [B], 1 on success, less the penalty if there is one"""
    terminated: torch.Tensor
    """bool [B], success"""
    truncated: torch.Tensor
    """bool [B], out of decisions without success"""
    active: torch.Tensor
    """bool [B]; False: it had finished before and waits, the other fields mean nothing"""


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

    ``starts`` holds kinds of start features [M, F]; a reset draws a kind (all equally often), then
    a row of it. ``feature`` float32 [B, F] is the current state, finished episodes already
    reset.

    With a ``group`` every draw serves so many environments in a row, and all begin their episodes
    together: one that has finished waits until ``max_decisions`` are over.

    With an ``uncertainty`` a decision's reward is less by ``penalty_scale`` times the mean excess
    of the states and actions of its four steps (MOPO, arXiv:2005.13239).
    """

    def __init__(
        self,
        dynamics: LatentDynamics,
        classifier: Success,
        starts: Sequence[torch.Tensor],
        envs: int,
        max_decisions: int,
        generator: torch.Generator,
        group: int | None = None,
        uncertainty: Uncertainty | None = None,
        penalty_scale: float = 0.0,
    ) -> None:
        """Raises WamError without any start, or if ``envs`` are not whole groups."""
        if group is not None:
            check_groups(envs, group)
        self._dynamics, self._classifier = dynamics, classifier
        self._max_decisions, self._generator = max_decisions, generator
        self._envs, self._group = envs, group
        self._uncertainty, self._penalty_scale = uncertainty, penalty_scale
        self.start_from(starts)
        self.feature = self.reset()

    def start_from(self, starts: Sequence[torch.Tensor]) -> None:
        """Draw from other ``starts`` from the next reset on. Raises WamError without any start."""
        kinds = [kind for kind in starts if len(kind)]
        if not kinds:
            raise WamError("imagination: no start states; expected at least one demonstration")
        self._starts = torch.cat(kinds)
        sizes = torch.tensor([len(kind) for kind in kinds], device=self._starts.device)
        self._kind_size, self._kind_first = sizes, sizes.cumsum(0) - sizes

    def reset(self) -> torch.Tensor:
        """Start every environment anew; the start features [B, F]."""
        self._age = torch.zeros(self._envs, dtype=torch.int64, device=self._starts.device)
        self._waiting = torch.zeros_like(self._age, dtype=torch.bool)
        self.feature = self._draw()
        return self.feature

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> Transition:
        """Execute a chunk of executable actions [B, 4, 7] and score the state behind it."""
        states = _states(self._dynamics, self.feature, action, self._generator)
        reached = states[-1].feature
        active = ~self._waiting
        terminated = self._classifier.success(reached) & active
        reward = terminated.float()
        if self._uncertainty is not None:
            before = torch.stack([state.feature for state in states[:-1]], dim=1)
            excess = self._uncertainty.excess(before, action).mean(1)
            reward = reward - self._penalty_scale * excess * active
        self._age += 1
        over = self._age >= self._max_decisions
        truncated = over & ~terminated & active
        anew = terminated | truncated
        if self._group is not None:
            # All have the same age, so that a round ends for all at once.
            self._waiting, anew = (self._waiting | anew) & ~over, over
        # Drawn for every environment: the random stream does not depend on who finished.
        self.feature = torch.where(anew.unsqueeze(-1), self._draw(), reached)
        self._age = self._age.masked_fill(anew, 0)
        return Transition(reached, reward, terminated, truncated, active)

    def _draw(self) -> torch.Tensor:
        device, copies = self._starts.device, self._group or 1
        kind, row = uniform((2, self._envs // copies), self._generator, device).unbind()
        kind = (kind * len(self._kind_size)).long()
        row = (row * self._kind_size[kind]).long()
        return self._starts[self._kind_first[kind] + row].repeat_interleave(copies, dim=0)


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


@torch.no_grad()
def replayed_features(
    dynamics: LatentDynamics,
    start: torch.Tensor,
    chunks: Sequence[torch.Tensor],
    generator: Generators,
) -> torch.Tensor:
    """Features [D, B, F] imagined behind each of the chunks [B, steps, 7] from ``start`` [B, F]."""
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
    return _states(dynamics, feature, action, generator)[-1].feature


def _states(
    dynamics: LatentDynamics,
    feature: torch.Tensor,
    action: torch.Tensor,
    generator: Generators,
) -> list[Any]:
    """The states before each of the actions [B, steps, 7], and behind the last one."""
    states = [dynamics.split(feature)]
    for step in range(action.shape[1]):
        states.append(dynamics.imagine_step(states[-1], action[:, step], generator))
    return states
