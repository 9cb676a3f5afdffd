"""Do classifier and world model agree with the simulator? Asked of every simulated roll-out.

Success in imagination needs a classifier that knows success when it sees it, and a world model that
predicts what actions do. Both are tested on what a policy really did, where the oracle knows the
truth: the demonstrations, on which classifiers are calibrated, are other states than a policy's.

B = episodes, D = decisions, F = feature, R = replays of each episode.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.evaluation.rollout import Agent, Experience
from wam.ppo.imagination import imagined_outcome, replayed_features
from wam.randomness import Generators, row_generators
from wam.reward.classifier import SuccessClassifier
from wam.tasks import Move

REPLAYS = 16
"""Times that every roll-out is imagined: one draw of the prior says little about a dream. A world
model that draws nothing dreams the same each time: once is enough."""


class Verdicts(NamedTuple):
    """What the models say of B episodes."""

    recognised: torch.Tensor
    """bool [B], the classifier finds success in the filtered features of the real roll-out"""
    replayed: torch.Tensor
    """float64 [B], share of R dreams of the same actions, from the same first feature, in which it
    finds success"""
    replayed_score: torch.Tensor
    """float64 [B], the highest probability of success that it gives in a dream, averaged over R"""


class Dream(NamedTuple):
    """What a policy does in imagination from the first features of B episodes."""

    success: torch.Tensor
    """bool [B], the classifier finds success"""
    chunks: Sequence[torch.Tensor]
    """D times float32 [B, 4, 7], executable actions"""


class Movements(NamedTuple):
    """Of a door or the drawer in B episodes, m, in the direction that the task asks for."""

    moved: torch.Tensor
    """float64 [B], at most"""
    dreamt: torch.Tensor
    """float64 [B], the same in a dream of the same actions, averaged over R"""


@torch.no_grad()
def verdicts(
    classifier: SuccessClassifier, experience: Experience, replays: torch.Tensor
) -> Verdicts:
    """The models' view of ``experience`` and of its :func:`replayed` features."""
    lasted = _lasted(experience)
    probability = classifier.probability(replays)
    highest = probability.masked_fill(~lasted, 0.0).amax(1)
    return Verdicts(
        recognised=(classifier.success(experience.features) & lasted).any(0),
        replayed=(highest >= classifier.threshold).double().mean(0),
        replayed_score=highest.double().mean(0),
    )


@torch.no_grad()
def dream(
    agent: Agent,
    classifier: SuccessClassifier,
    first: torch.Tensor,
    seeds: Sequence[int],
    max_decisions: int,
) -> Dream:
    """Let ``agent`` act in imagination from the features ``first`` [B, F].

    ``seeds`` give every episode its own random numbers.
    """
    sampler = _Sampler(agent)
    generators = row_generators(seeds, agent.device)
    success = imagined_outcome(
        agent.world_model, classifier, sampler, first, max_decisions, generators
    )
    return Dream(success, sampler.chunks)


@torch.no_grad()
def replayed(agent: Agent, experience: Experience, seeds: Sequence[int]) -> torch.Tensor:
    """Features [R, D, B, F] behind every decision of the dreams of what was done."""
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
    return features.unflatten(1, (replays, len(seeds))).transpose(0, 1)


def movements(
    rule: Move,
    experience: Experience,
    replays: torch.Tensor,
    start: torch.Tensor,
    ridge: float = 0.1,
) -> Movements:
    """How far the task's object moved, and in the dreams of the same actions.

    ``start`` float64 [B, 24] are the scenes that the episodes began with. Where the object is in a
    dream a linear probe tells, fitted with ``ridge`` to the filtered features of these episodes.
    """
    lasted, sign = _lasted(experience), 1.0 if rule.distance > 0 else -1.0
    place = experience.scene_obs[..., rule.index]
    probe = _linear(experience.features[lasted], place[lasted], ridge)
    begun = start[:, rule.index]

    def farthest(places: torch.Tensor) -> torch.Tensor:
        return (sign * (places - begun)).masked_fill(~lasted, -torch.inf).amax(-2)

    return Movements(farthest(place), farthest(probe(replays)).mean(0))


def _lasted(experience: Experience) -> torch.Tensor:
    """bool [D, B], the decision was made."""
    decisions = experience.decisions
    return torch.arange(len(experience.chunks), device=decisions.device)[:, None] < decisions


def _linear(
    feature: torch.Tensor, value: torch.Tensor, ridge: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Ridge regression of ``value`` [N] on ``feature`` [N, F]."""
    mean, centre = feature.double().mean(0), value.mean()
    centred = feature.double() - mean
    gram = centred.T @ centred + ridge * torch.eye(len(mean), device=mean.device).double()
    weight = torch.linalg.solve(gram, centred.T @ (value - centre))
    return lambda rows: (rows.double() - mean) @ weight + centre


class _Sampler:
    """The agent's policy, sampled in imagination as in the simulator; keeps what it did."""

    def __init__(self, agent: Agent) -> None:
        self._policy, self._ddim_steps = agent.policy, agent.ddim_steps
        self.chunks: list[torch.Tensor] = []

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        self.chunks.append(self._policy.act(feature, generator, self._ddim_steps))
        return self.chunks[-1]
