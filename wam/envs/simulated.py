"""The simulator as the environment of PPO, in place of imagination: an upper bound for it.

The interface is :class:`wam.ppo.imagination.Environment`; states are features of the online filter,
rewards those of the task oracle.
"""

from collections.abc import Sequence

import numpy as np
import torch

from wam.envs.episode import Episode
from wam.envs.filtered import FilteredPool
from wam.errors import WamError
from wam.ppo.imagination import Transition

_SEEDS = 2**62


class SimulatedEnv:
    """Environments that start from recorded states and end on success or after a limit.

    A reset draws one of ``starts``, all equally often, and a seed for the episode's filter (the
    start's own is not used), both from ``generator``. An episode therefore depends on its start,
    its seed and its actions alone.
    """

    def __init__(
        self,
        filtered: FilteredPool,
        starts: Sequence[Episode],
        envs: int,
        max_decisions: int,
        generator: torch.Generator,
    ) -> None:
        if not starts:
            raise WamError("simulator: no start states; expected at least one demonstration")
        self._filtered, self._starts = filtered, starts
        self._envs, self._max_decisions, self._generator = envs, max_decisions, generator
        self._age: np.ndarray | None = None

    @property
    def feature(self) -> torch.Tensor:
        """float32 [B, F], the current state, finished episodes already reset.

        Raises RuntimeError before the first reset.
        """
        if self._age is None:
            raise RuntimeError("reset the environments first")
        return self._filtered.feature

    def reset(self) -> torch.Tensor:
        """Start every environment anew; the start features [B, F]."""
        self._filtered.start(self._draw())
        self._age = np.zeros(self._envs, np.int64)
        return self.feature

    def step(self, action: torch.Tensor) -> Transition:
        """Execute a chunk of executable actions [B, 4, 7], each episode until its success."""
        if self._age is None:
            raise RuntimeError("reset the environments first")
        success = self._filtered.step(action).success
        reached = self._filtered.feature
        self._age += 1
        out_of_time = (self._age >= self._max_decisions) & ~success
        # Drawn for every environment: the random stream does not depend on who finished.
        drawn = self._draw()
        finished = np.flatnonzero(success | out_of_time).tolist()
        if finished:
            self._filtered.restart({row: drawn[row] for row in finished})
            self._age[finished] = 0
        device = reached.device
        terminated = torch.from_numpy(success).to(device)
        truncated = torch.from_numpy(out_of_time).to(device)
        active = torch.ones_like(terminated)
        return Transition(reached, terminated.float(), terminated, truncated, active)

    def _draw(self) -> list[Episode]:
        shape, device = (2, self._envs), self._generator.device
        numbers = torch.randint(_SEEDS, shape, generator=self._generator, device=device)
        return [
            self._starts[start % len(self._starts)]._replace(seed=seed)
            for start, seed in numbers.T.tolist()
        ]
