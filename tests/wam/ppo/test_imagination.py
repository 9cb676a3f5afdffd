from typing import NamedTuple

import pytest
import torch

from wam.errors import WamError
from wam.ppo.imagination import LatentEnv, imagined_outcome
from wam.randomness import Generators

LIMIT = 3


class CountState(NamedTuple):
    feature: torch.Tensor
    """[B, 2]: where the episode started, sum of the first action dimension"""


class CountDynamics:
    def split(self, feature: torch.Tensor) -> CountState:
        return CountState(feature)

    def imagine_step(
        self, state: CountState, action: torch.Tensor, generator: Generators
    ) -> CountState:
        feature = state.feature.clone()
        feature[:, 1] += action[:, 0]
        return CountState(feature)


class AtLeastSix:
    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[:, 1] >= 6


class UncertainAboutTheReached:
    def excess(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return feature[..., 1] + 10 * action[..., 1]


def make_env(
    envs: int,
    starts: list[torch.Tensor],
    group: int | None = None,
    penalty_scale: float | None = None,
) -> LatentEnv:
    random = torch.Generator().manual_seed(0)
    uncertainty = None if penalty_scale is None else UncertainAboutTheReached()
    return LatentEnv(
        CountDynamics(),
        AtLeastSix(),
        starts,
        envs,
        LIMIT,
        random,
        group,
        uncertainty,
        penalty_scale or 0.0,
    )


def start(identity: float) -> torch.Tensor:
    return torch.tensor([[identity, 0.0]])


def chunk(*values: float) -> torch.Tensor:
    """Chunks whose four actions add up to the values, one per environment."""
    action = torch.zeros(len(values), 4, 7)
    action[..., 0] = torch.tensor(values).unsqueeze(1) / 4
    return action


def test_episodes_end_on_success_or_after_the_last_decision() -> None:
    env = make_env(3, [start(1.0)])
    first = env.step(chunk(2, 4, 1))
    assert not (first.terminated | first.truncated).any()
    assert first.reward.tolist() == [0, 0, 0]
    second = env.step(chunk(2, 2, 1))
    assert second.terminated.tolist() == [False, True, False]
    assert second.reward.tolist() == [0, 1, 0]
    third = env.step(chunk(2, 2, 1))
    assert third.terminated.tolist() == [True, False, False]
    assert third.truncated.tolist() == [False, False, True]


def test_the_transition_shows_the_state_before_the_reset() -> None:
    env = make_env(2, [start(1.0)])
    transition = env.step(chunk(8, 1))
    assert transition.feature[:, 1].tolist() == [8, 1]
    assert env.feature[:, 1].tolist() == [0, 1]
    # The environment that was reset has its decisions before it again.
    for _ in range(LIMIT - 1):
        transition = env.step(chunk(1, 1))
    assert transition.truncated.tolist() == [False, True]
    assert env.step(chunk(1, 1)).truncated.tolist() == [True, False]


def test_kinds_of_starts_are_drawn_equally_often() -> None:
    demos = torch.cat([start(1.0)] * 10)
    play = torch.cat([start(2.0), start(3.0)])
    identity = make_env(3000, [demos, torch.zeros(0, 2), play]).feature[:, 0]
    assert (identity == 1.0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    assert (identity == 2.0).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_no_starts_are_refused() -> None:
    with pytest.raises(WamError, match="no start states"):
        make_env(2, [torch.zeros(0, 2)])


def test_a_group_shares_its_start_and_waits_for_the_end_of_the_round() -> None:
    starts = torch.cat([start(identity) for identity in range(50)])
    env = make_env(6, [starts], group=3)
    first = env.feature[:, 0].clone()
    assert (first[:3] == first[0]).all() and (first[3:] == first[3]).all()
    assert first[0] != first[3]
    # The first environment succeeds at once, the second at the second decision, the others never.
    outcomes = [env.step(chunk(8, 3, 1, 1, 1, 1)) for _ in range(LIMIT)]
    succeeded = [outcome.terminated.nonzero().flatten().tolist() for outcome in outcomes]
    assert succeeded == [[0], [1], []]
    assert [outcome.reward.sum().item() for outcome in outcomes] == [1, 1, 0]
    assert [(~outcome.active).nonzero().flatten().tolist() for outcome in outcomes] == [
        [],
        [0],
        [0, 1],
    ]
    assert outcomes[-1].truncated.tolist() == [False, False, True, True, True, True]
    # All begin anew together, with the next draw.
    assert (env.feature[:, 1] == 0).all()
    again = env.feature[:, 0]
    assert (again[:3] == again[0]).all() and not torch.equal(again, first)
    assert env.step(chunk(1, 1, 1, 1, 1, 1)).active.all()


@pytest.mark.parametrize("group", [1, 4])
def test_parts_of_groups_are_refused(group: int) -> None:
    with pytest.raises(WamError, match="group"):
        make_env(6, [start(1.0)], group)


def test_uncertainty_lowers_the_reward_by_the_mean_over_the_steps() -> None:
    env = make_env(2, [start(1.0)], penalty_scale=0.1)
    action = chunk(4, 8)
    action[0, :, 1] = 0.2
    first = env.step(action)
    # States 0, 1, 2, 3 and 0, 2, 4, 6 before the four steps; the action adds 2 to the first.
    assert first.reward.tolist() == [
        pytest.approx(-0.1 * (1.5 + 2)),
        pytest.approx(1 - 0.1 * 3),
    ]
    assert first.terminated.tolist() == [False, True]


def test_who_waits_pays_nothing() -> None:
    env = make_env(2, [start(1.0)], group=2, penalty_scale=0.1)
    env.step(chunk(8, 1))
    second = env.step(chunk(1, 1))
    assert second.reward.tolist() == [0.0, pytest.approx(-0.1 * (1 + 0.375))]


def test_uncertainty_of_no_weight_changes_nothing() -> None:
    starts = [torch.cat([start(1.0), start(2.0)])]
    plain, penalised = (make_env(4, starts, penalty_scale=scale) for scale in (None, 0.0))
    for _ in range(LIMIT):
        ours, theirs = plain.step(chunk(1, 2, 3, 8)), penalised.step(chunk(1, 2, 3, 8))
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert torch.equal(plain.feature, penalised.feature)


class Steady:
    """Moves by a third of what the start's identity says in every decision."""

    def act(self, feature: torch.Tensor, generator: Generators) -> torch.Tensor:
        return chunk(*(feature[:, 0] / LIMIT).tolist())


def test_the_imagined_outcome_is_told_of_every_start() -> None:
    starts = torch.cat([start(identity) for identity in (7.0, 5.0, 20.0, 1.0)])
    outcome = imagined_outcome(
        CountDynamics(), AtLeastSix(), Steady(), starts, LIMIT, torch.Generator()
    )
    assert outcome.tolist() == [True, False, True, False]
