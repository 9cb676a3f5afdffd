"""Do classifier and world model agree with the simulator? Asked of every simulated roll-out.

Success in imagination needs a classifier that knows success when it sees it, and a world model that
predicts what actions do. Both are tested on what a policy really did, where the oracle knows the
truth: the demonstrations, on which classifiers are calibrated, are other states than a policy's.

B = episodes, D = decisions, F = feature.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pipeline.evaluation.rollout import Agent, Experience
from wam.ppo.imagination import imagined_outcome, replayed_features
from wam.randomness import Generators, row_generators
from wam.reward.classifier import SuccessClassifier


class Verdicts(NamedTuple):
    """What the models say of B episodes, bool [B] each."""

    recognised: torch.Tensor
    """The classifier finds success in the filtered features of the real roll-out.

    It sees one frame of a success, with which the roll-out ends, and after that none: more would be
    found if it went on.
    """
    replayed: torch.Tensor
    """It finds success where the world model imagines the same actions from the first feature."""
    imagined: torch.Tensor
    """It finds success where the policy itself acts in imagination, from the same first feature."""


@torch.no_grad()
def verdicts(
    agent: Agent,
    classifier: SuccessClassifier,
    experience: Experience,
    seeds: Sequence[int],
    max_decisions: int,
) -> Verdicts:
    """The models' view of ``experience``; ``seeds`` give every episode its own random numbers."""
    model, chunks = agent.world_model, experience.chunks
    lasted = torch.arange(len(chunks), device=agent.device).unsqueeze(1) < experience.decisions
    randoms = [row_generators(seeds, agent.device) for _ in range(2)]
    replayed = replayed_features(model, experience.first, chunks, randoms[0])
    imagined = imagined_outcome(
        model, classifier, _Sampler(agent), experience.first, max_decisions, randoms[1]
    )
    return Verdicts(
        recognised=(classifier.success(experience.features) & lasted).any(0),
        replayed=(classifier.success(replayed) & lasted).any(0),
        imagined=imagined,
    )


class _Sampler:
    """The agent's policy, sampled in imagination as in the simulator."""

    def __init__(self, agent: Agent) -> None:
        self._policy, self._ddim_steps = agent.policy, agent.ddim_steps

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        return self._policy.act(feature, generator, self._ddim_steps)
