"""Do classifier and world model agree with the simulator? Asked of every simulated roll-out.

Success in imagination needs a classifier that knows success when it sees it, and a world model that
predicts what actions do. Both are tested on what a policy really did, where the oracle knows the
truth: the demonstrations, on which classifiers are calibrated, are other states than a policy's.

B = episodes, D = decisions, F = feature, R = replays of each episode.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.evaluation.rollout import Agent, Experience
from wam.ppo.imagination import imagined_outcome, replayed_features
from wam.randomness import Generators, row_generators
from wam.reward.classifier import SuccessClassifier

REPLAYS = 16
"""Times that every roll-out is imagined: one draw of the prior says little about a dream. A world
model that draws nothing dreams the same each time: once is enough."""


class Verdicts(NamedTuple):
    """What the models say of B episodes."""

    recognised: torch.Tensor
    """bool [B], the classifier finds success in the filtered features of the real roll-out.

    It sees one frame of a success, with which the roll-out ends, and after that none: more would be
    found if it went on.
    """
    replayed: torch.Tensor
    """float64 [B], share of R dreams of the same actions, from the same first feature, in which it
    finds success"""
    replayed_score: torch.Tensor
    """float64 [B], the highest probability of success that it gives in a dream, averaged over R"""
    imagined: torch.Tensor
    """bool [B], it finds success where the policy itself acts in imagination from that feature"""


@torch.no_grad()
def verdicts(
    agent: Agent,
    classifier: SuccessClassifier,
    experience: Experience,
    seeds: Sequence[int],
    max_decisions: int,
) -> Verdicts:
    """The models' view of ``experience``; ``seeds`` give every episode its own random numbers."""
    decision = torch.arange(len(experience.chunks), device=agent.device).unsqueeze(1)
    lasted = decision < experience.decisions
    imagined = imagined_outcome(
        agent.world_model,
        classifier,
        _Sampler(agent),
        experience.first,
        max_decisions,
        row_generators(seeds, agent.device),
    )
    probability = _replayed(agent, classifier, experience, seeds)
    highest = probability.masked_fill(~lasted, 0.0).amax(1)
    return Verdicts(
        recognised=(classifier.success(experience.features) & lasted).any(0),
        replayed=(highest >= classifier.threshold).double().mean(0),
        replayed_score=highest.double().mean(0),
        imagined=imagined,
    )


def _replayed(
    agent: Agent,
    classifier: SuccessClassifier,
    experience: Experience,
    seeds: Sequence[int],
) -> torch.Tensor:
    """Probability of success [R, D, B] behind every decision of the replays."""
    replays = REPLAYS if agent.world_model.draws else 1
    draws = [
        int(np.random.SeedSequence([seed, replay]).generate_state(1)[0])
        for replay in range(replays)
        for seed in seeds
    ]
    features = replayed_features(
        agent.world_model,
        experience.first.repeat(replays, 1),
        [chunk.repeat(replays, 1, 1) for chunk in experience.chunks],
        row_generators(draws, agent.device),
    )
    probability = classifier.probability(features)
    return probability.unflatten(1, (replays, len(seeds))).transpose(0, 1)


class _Sampler:
    """The agent's policy, sampled in imagination as in the simulator."""

    def __init__(self, agent: Agent) -> None:
        self._policy, self._ddim_steps = agent.policy, agent.ddim_steps

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        return self._policy.act(feature, generator, self._ddim_steps)
