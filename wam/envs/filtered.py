"""Simulator episodes seen through the online filter (docs/algorithm.md 3.4).

Shapes: B episodes, F feature. Not for worker processes, which do without torch.
"""

from collections.abc import Mapping, Sequence

import torch

from wam import proprio
from wam.config import Filtering
from wam.envs.episode import Episode, Observations, StepResult
from wam.envs.pool import EnvPool
from wam.proprio import ProprioNormalizer
from wam.randomness import row_generators
from wam.world_model.filtering import Observation, OnlineFilter
from wam.world_model.model import WorldModel


class FilteredPool:
    """A pool's episodes with their features; the filter sees every observation.

    ``generators`` holds one generator per episode, seeded with the episode's seed, from which the
    filter draws. ``feature`` float32 [B, F] is that of the last observation of every episode, which
    for one that has succeeded is the observation of its success.
    """

    def __init__(
        self,
        pool: EnvPool,
        world_model: WorldModel,
        normalizer: ProprioNormalizer,
        filtering: Filtering,
        device: torch.device,
    ) -> None:
        """``pool`` makes images of the model's size."""
        self._pool, self._world_model, self._normalizer = pool, world_model, normalizer
        self._filtering, self.device = filtering, device

    def start(self, episodes: Sequence[Episode]) -> None:
        """Begin new episodes; earlier ones are closed."""
        self.generators = row_generators([episode.seed for episode in episodes], self.device)
        self._online = OnlineFilter(self._world_model, self.generators, self._filtering)
        self.feature = self._online.reset(self._see(self._pool.start(episodes)))

    def restart(self, episodes: Mapping[int, Episode]) -> None:
        """Begin new episodes in some rows; the others stay as they are."""
        rows = list(episodes)
        seeds = [episode.seed for episode in episodes.values()]
        generators = row_generators(seeds, self.device)
        for row, generator in zip(rows, generators, strict=True):
            self.generators[row] = generator
        first = self._see(self._pool.restart(episodes))
        fresh = self._online.restart(rows, first, generators)
        self.feature = self.feature.clone()
        self.feature[rows] = fresh[rows]

    def step(self, chunk: torch.Tensor) -> StepResult:
        """Execute executable actions [B, n, 7] open loop, each episode until its success."""
        result = self._pool.step(chunk.cpu().numpy())
        steps = torch.from_numpy(result.steps).to(self.device)
        for t in range(chunk.shape[1]):
            seen = Observations(*(part[:, t] for part in result.observations))  # type: ignore[index]
            feature = self._online.step(self._see(seen), chunk[:, t])
            self.feature = torch.where((steps > t).unsqueeze(-1), feature, self.feature)
        return result

    def _see(self, observations: Observations) -> Observation:
        values = self._normalizer(proprio.from_robot_obs(observations.robot_obs))
        arrays = (observations.rgb_static, observations.rgb_gripper, values)
        return Observation(*(torch.from_numpy(array).to(self.device) for array in arrays))
