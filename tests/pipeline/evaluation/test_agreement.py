from typing import Any, NamedTuple

import pytest
import torch

from pipeline.evaluation.agreement import REPLAYS, dream, movements, replayed, verdicts
from pipeline.evaluation.results import agreement_of
from pipeline.evaluation.rollout import Agent, Experience
from wam.errors import WamError
from wam.randomness import Generators, normal
from wam.tasks import DRAWER, Move


class Sum(NamedTuple):
    feature: torch.Tensor
    """[B, 1], sum of the first action dimension so far"""


class Adding:
    """A world model that knows exactly what actions do."""

    draws = False

    def split(self, feature: torch.Tensor) -> Sum:
        return Sum(feature)

    def imagine_step(self, state: Sum, action: torch.Tensor, generator: Generators) -> Sum:
        return Sum(state.feature + action[:, :1])


class AtLeastSix:
    threshold = torch.tensor(0.6)

    def probability(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[..., 0] / 10

    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return self.probability(feature) >= self.threshold


class Always:
    """A policy whose chunks add a fixed amount, and remembers how it was sampled."""

    def __init__(self, amount: float) -> None:
        self._amount = amount
        self.ddim_steps: set[int | None] = set()

    def act(
        self, feature: torch.Tensor, generator: Generators, ddim_steps: int | None = None
    ) -> torch.Tensor:
        self.ddim_steps.add(ddim_steps)
        return torch.full((len(feature), 4, 7), self._amount / 4)


def make_agent(policy: Any) -> Agent:
    parts: tuple[Any, ...] = (Adding(), None, policy, "sample", torch.device("cpu"), 5)
    return Agent(*parts)


def experience(seen: list[list[float]], added: list[list[float]], decisions: list[int]) -> Any:
    """Episodes side by side: real features and what the chunks add, decision by decision."""
    amounts = torch.tensor(added)
    chunks = (amounts / 4)[:, :, None, None].expand(*amounts.shape, 4, 7)
    return Experience(
        torch.zeros(amounts.shape[1], 1),
        list(chunks),
        torch.tensor(seen).unsqueeze(-1),
        torch.tensor(decisions),
        torch.zeros(len(amounts), amounts.shape[1], 24, dtype=torch.float64),
    )


def test_each_link_is_asked_of_what_really_happened() -> None:
    real = experience(
        seen=[[2.0, 7.0, 3.0], [6.0, 7.0, 5.0], [9.0, 9.0, 9.0]],
        added=[[3.0, 3.0, 1.0], [1.0, 3.0, 1.0], [9.0, 9.0, 9.0]],
        decisions=[3, 2, 2],
    )
    agent = make_agent(Always(2.0))
    found = verdicts(AtLeastSix(), real, replayed(agent, real, range(3)))  # type: ignore[arg-type]
    # The third episode ended before its third decision: what was recorded then does not count.
    assert found.recognised.tolist() == [True, True, False]
    assert found.replayed.tolist() == [1, 1, 0]
    assert found.replayed_score.tolist() == pytest.approx([1.3, 0.6, 0.2])


def test_a_dream_is_what_the_policy_does_in_it() -> None:
    policy, first = Always(2.0), torch.tensor([[0.0], [4.0], [1.0]])

    def dreamt(decisions: int) -> tuple[list[bool], list[float]]:
        found = dream(make_agent(policy), AtLeastSix(), first, range(3), decisions)  # type: ignore[arg-type]
        return found.success.tolist(), [float(chunk[0, :, 0].sum()) for chunk in found.chunks]

    assert dreamt(3) == ([True, True, True], [2.0, 2.0, 2.0])
    assert policy.ddim_steps == {5}
    assert dreamt(2) == ([False, True, False], [2.0, 2.0])


def test_figures_are_those_of_the_confusion_matrix() -> None:
    truth = [True, True, True, False, False]
    recognised = [True, True, False, True, False]
    replayed = [1.0, 0.75, 0.25, 0.5, 0.0]
    score = [0.9, 0.8, 0.6, 0.7, 0.1]
    imagined = [True, True, True, True, False]
    executed = [True, False, True, True, True]
    names = ("success", "recognised", "replayed", "replayed_score", "imagined", "executed")
    rollouts = [
        dict(zip(names, row, strict=True))
        for row in zip(truth, recognised, replayed, score, imagined, executed, strict=True)
    ]
    figures = agreement_of(rollouts)
    assert figures is not None
    assert figures.recognised_precision == pytest.approx(2 / 3)
    assert figures.recognised_recall == pytest.approx(2 / 3)
    # Five of the six pairs of a success and a failure are in order; most replays of one success
    # fail.
    assert figures.replayed_auc == pytest.approx(5 / 6)
    assert figures.replayed_balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert figures.replayed_bias == pytest.approx(0.5 - 0.6)
    assert figures.false_alarms == pytest.approx(0.25)
    assert figures.misses == pytest.approx(1 / 3)
    assert figures.imagined_success == pytest.approx(0.8)
    assert figures.executed_success == pytest.approx(0.8)
    assert figures.dreams_true == pytest.approx(3 / 4)


def test_what_was_never_claimed_has_no_precision() -> None:
    nothing = {"success": False, "recognised": False, "replayed": 0.0, "imagined": False}
    nothing |= {"replayed_score": 0.0, "executed": False}
    figures = agreement_of([nothing])
    assert figures == (None, None, None, None, 0, None, 0, None, 0, 0, None)
    assert agreement_of([{"success": True}]) is None
    del nothing["executed"]
    with pytest.raises(WamError, match="open_drawer: roll-outs without 'executed'"):
        agreement_of([{"task": "open_drawer", **nothing}])


def test_a_dream_that_moves_what_stayed_is_told() -> None:
    """Features hold twice the joint, and noise; the object moves in the second episode alone."""
    joint = torch.tensor([[0.02, 0.05, 0.2], [0.02, 0.12, 0.9], [0.9, 0.15, 0.9]])
    random = torch.Generator().manual_seed(0)

    def features(places: torch.Tensor) -> torch.Tensor:
        return torch.stack([2 * places + 1, torch.randn(places.shape, generator=random)], -1)

    scenes = torch.zeros(3, 3, 24, dtype=torch.float64)
    scenes[..., DRAWER] = joint
    none = torch.zeros(3, 2)
    decisions = torch.tensor([2, 3, 1])  # what comes behind means nothing
    real = Experience(none, [none] * 3, features(joint), decisions, scenes)
    start = torch.zeros(3, 24, dtype=torch.float64)
    start[:, DRAWER] = torch.tensor([0.02, 0.01, 0.2])
    dreams = torch.stack([joint, joint]).clone()
    dreams[0, 1, 0], dreams[1, 1, 0] = 0.12, 0.22
    # So few frames, and so little between them, call for a milder ridge.
    opened = movements(Move(DRAWER, 0.12, 0.1), real, features(dreams), start, ridge=1e-6)
    assert opened.moved.tolist() == pytest.approx([0.0, 0.14, 0.0], abs=1e-6)
    assert opened.dreamt.tolist() == pytest.approx([(0.10 + 0.20) / 2, 0.14, 0.0], abs=1e-3)
    closed = movements(Move(DRAWER, -0.12, 0.12), real, features(dreams), start, ridge=1e-6)
    assert closed.moved.tolist() == pytest.approx([0.0, -0.04, 0.0], abs=1e-6)


def test_phantom_moves_are_a_share_of_what_stayed() -> None:
    row = {"task": "open_drawer", "success": False, "recognised": False, "replayed": 0.0}
    row |= {"replayed_score": 0.0, "imagined": False, "executed": False}
    ways = [(0.0, 0.07), (0.004, 0.05), (0.0, 0.01), (0.05, 0.2)]
    figures = agreement_of([row | {"moved": m, "dreamt": d} for m, d in ways])
    assert figures is not None
    assert figures.phantom_moves == pytest.approx(1 / 3)
    figures = agreement_of([row | {"moved": 0.13, "dreamt": 0.2}])
    assert figures is not None
    assert figures.phantom_moves is None


class Drifting(Adding):
    """A world model whose every step adds noise of its own draw."""

    draws = True

    def imagine_step(self, state: Sum, action: torch.Tensor, generator: Generators) -> Sum:
        noise = normal((len(action), 1), generator, "cpu")
        return Sum(state.feature + action[:, :1] + noise)


def test_replays_differ_and_follow_from_the_episodes_seeds() -> None:
    real = experience(seen=[[0.0, 0.0]], added=[[6.0, 6.0]], decisions=[1, 1])
    agent = make_agent(Always(2.0))._replace(world_model=Drifting())  # type: ignore[arg-type]

    def shares(seeds: list[int]) -> list[float]:
        found = verdicts(AtLeastSix(), real, replayed(agent, real, seeds))  # type: ignore[arg-type]
        return found.replayed.tolist()

    found = shares([1, 2])
    assert all(0 < share < 1 and (share * REPLAYS).is_integer() for share in found)
    # An episode's replays belong to it, whatever stands beside it.
    assert shares([2, 1]) == found[::-1]
