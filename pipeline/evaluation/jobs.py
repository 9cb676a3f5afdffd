"""What is rolled out: a policy, from all starts of a task."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.results import PolicyName
from pipeline.latents.demonstrations import Start
from wam.config import CHUNK, TASKS
from wam.envs.episode import Episode

AFTERMATH = 2 * CHUNK
"""Steps for which a policy's roll-out goes on after its success, so that a success which the models
believe a decision or two late is not taken for one that they miss. In imagination an episode goes
on, too, until the classifier believes. One that succeeds in its last steps has no time for it."""


class EvaluationJob(NamedTuple):
    """One pass of one policy over all starts of a task."""

    variant: str | None
    task: str
    stage: str
    seed: int

    @property
    def label(self) -> str:
        return PolicyName(self.variant, self.stage).label

    @property
    def name(self) -> str:
        """Unique among those of a variant; of the file that is kept of it."""
        return f"{self.task}-{self.stage}-{self.seed}"


def episodes(task: str, seed: int, starts: Sequence[Start]) -> list[Episode]:
    """An episode from each start, with its own random numbers."""
    return [
        Episode(
            task,
            np.array(start.robot_obs),
            np.array(start.scene_obs),
            episode_seed(seed, task, start.frame_id),
        )
        for start in starts
    ]


def episode_seed(seed: int, task: str, frame_id: int) -> int:
    """The seed of one start's random numbers: the same for every policy, whatever else runs."""
    return int(np.random.SeedSequence([seed, TASKS.index(task), frame_id]).generate_state(1)[0])
