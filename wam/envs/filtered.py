"""Simulator episodes seen through the online filter (docs/algorithm.md 3.4).

Shapes: B episodes, F feature. Not for worker processes, which do without torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wam import proprio
from wam.config import Filtering
from wam.distractors import disturbed
from wam.envs.episode import Episode, Observations, StepResult
from wam.envs.pool import EnvPool
from wam.proprio import ProprioNormalizer
from wam.randomness import row_generators
from wam.world_model.filtering import Observation, OnlineFilter
from wam.world_model.model import WorldModel


class FilteredPool:
    """A pool's episodes with their features, as an :class:`OnlineFilter` makes them.

    ``generators`` holds one generator per episode, seeded with the episode's seed, from which the
    filter draws. ``feature`` float32 [B, F] is what a policy acts on, ``seen`` that of the last
    observation of every episode, which for one that is over is the last that there was. A model
    with distractors sees images that are disturbed by the episode's seed and age.

    Where only some rows' episodes run, the filter has all B rows nevertheless, and the others mean
    nothing: the last bits of a row depend on the size of its batch, but on no other row.
    """

    def __init__(
        self,
        pool: EnvPool,
        world_model: WorldModel,
        normalizer: ProprioNormalizer,
        filtering: Filtering,
        device: torch.device,
        look_every: int = 1,
    ) -> None:
        """``pool`` makes images of the model's size."""
        self._look_every = look_every
        self._pool, self._world_model, self._normalizer = pool, world_model, normalizer
        self._filtering, self.device = filtering, device

    def start(self, episodes: Sequence[Episode], rows: slice = slice(None)) -> None:
        """Begin new episodes, of which only those of ``rows`` run; earlier ones are closed."""
        self.generators = row_generators([episode.seed for episode in episodes], self.device)
        self._online = OnlineFilter(
            self._world_model, self.generators, self._filtering, self._look_every
        )
        first = self._pool.start(episodes[rows])
        self._rows = rows
        self._numbers = np.array([episode.seed for episode in episodes])
        self._time = np.zeros(len(episodes), np.int64)
        # Rows that do not run see what the first one that does sees.
        self._shown = np.zeros(len(episodes), np.int64)
        self._shown[rows] = np.arange(len(episodes[rows]))
        self.feature = self._online.reset(self._see(_each(first, self._shown)))
        self.seen = self._online.seen

    def restart(self, episodes: Mapping[int, Episode]) -> None:
        """Begin new episodes in some rows, where all run; the others stay as they are."""
        rows = list(episodes)
        seeds = [episode.seed for episode in episodes.values()]
        generators = row_generators(seeds, self.device)
        for row, generator in zip(rows, generators, strict=True):
            self.generators[row] = generator
        self._numbers[rows], self._time[rows] = seeds, 0
        first = self._see(self._pool.restart(episodes), rows)
        self._online.restart(rows, first, generators)
        self.feature, self.seen = self.feature.clone(), self.seen.clone()
        self.feature[rows], self.seen[rows] = self._online.feature[rows], self._online.seen[rows]

    def step(self, chunk: torch.Tensor) -> StepResult:
        """Execute executable actions [B, n, 7] open loop, each episode until it is over.

        The result is that of the rows that run.
        """
        result = self._pool.step(chunk[self._rows].cpu().numpy())
        steps = torch.from_numpy(result.steps[self._shown]).to(self.device)
        for t in range(chunk.shape[1]):
            seen = _each(result.observations, (self._shown, t))
            self._time += 1
            self._online.step(self._see(seen), chunk[:, t])
            lasts = (steps > t).unsqueeze(-1)
            self.feature = torch.where(lasts, self._online.feature, self.feature)
            self.seen = torch.where(lasts, self._online.seen, self.seen)
        return result

    def _see(
        self, observations: Observations, rows: list[int] | slice = slice(None)
    ) -> Observation:
        """What the model sees of ``observations`` [R, ...] of the R episodes in ``rows``."""
        values = self._normalizer(proprio.from_robot_obs(observations.robot_obs))
        images: list[Any] = [observations.rgb_static, observations.rgb_gripper]
        if self._world_model.config.distractors:
            images = [self._disturbed(frames, rows, c) for c, frames in enumerate(images)]
        arrays = (*images, values)
        return Observation(*(torch.from_numpy(array).to(self.device) for array in arrays))

    def _disturbed(self, frames: Any, rows: list[int] | slice, camera: int) -> np.ndarray:
        pairs = zip(self._numbers[rows].tolist(), self._time[rows].tolist(), strict=True)
        return np.stack(
            [disturbed(frame, *pair, camera) for frame, pair in zip(frames, pairs, strict=True)]
        )


def _each(observations: Observations, index: Any) -> Observations:
    """Every array, with cameras, at ``index``."""
    return Observations(*(part[index] for part in observations))  # type: ignore[index]
