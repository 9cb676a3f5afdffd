import pytest
import torch

from wam.errors import WamError
from wam.ppo.advantage import GROUP_EPS, RewardScaler, gae, group_advantage


def test_advantages_of_five_steps_with_a_termination_and_a_truncation() -> None:
    reward = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]).unsqueeze(1)
    value = torch.tensor([0.5, 0.6, 0.2, 0.3, 0.4]).unsqueeze(1)
    # Row 1 terminates (its successor's value must not count), row 3 is truncated: it bootstraps
    # from the state reached, whose value 0.9 is not the value 0.4 of the state after the reset.
    next_value = torch.tensor([0.6, 7.0, 0.3, 0.9, 0.8]).unsqueeze(1)
    terminated = torch.tensor([False, True, False, False, False]).unsqueeze(1)
    truncated = torch.tensor([False, False, False, True, False]).unsqueeze(1)
    advantage = gae(reward, value, next_value, terminated, truncated, gamma=0.9, lam=0.5)
    last = 0.9 * 0.8 - 0.4
    third = 0.9 * 0.9 - 0.3
    second = 0.9 * 0.3 - 0.2 + 0.45 * third
    first = 1.0 - 0.6
    start = 0.9 * 0.6 - 0.5 + 0.45 * first
    expected = torch.tensor([start, first, second, third, last]).unsqueeze(1)
    torch.testing.assert_close(advantage, expected)


def test_rewards_are_scaled_by_the_spread_of_the_discounted_return() -> None:
    random = torch.Generator().manual_seed(0)
    reward = (torch.rand(200, 64, generator=random) < 0.1).float()
    done = torch.rand(200, 64, generator=random) < 0.05
    returns, running = [], torch.zeros(64)
    for row, ended in zip(reward, done, strict=True):
        running = running * 0.99 + row
        returns.append(running)
        running = running * ~ended
    scaler = RewardScaler()
    scaled = scaler(reward, done)
    spread = torch.stack(returns).std()
    torch.testing.assert_close(scaled[-1] * spread, reward[-1], atol=1e-3, rtol=1e-3)
    assert scaled.abs().max() <= 10
    # The statistics are kept: a restored scaler goes on like the original.
    restored = RewardScaler()
    restored.load_state_dict(scaler.state_dict())
    assert torch.equal(restored(reward, done), scaler(reward, done))


def test_no_reward_at_all_stays_zero() -> None:
    scaled = RewardScaler()(torch.zeros(10, 4), torch.zeros(10, 4).bool())
    assert torch.equal(scaled, torch.zeros(10, 4))


def test_episodes_are_compared_within_their_group() -> None:
    # Two rounds of three decisions, two groups of two environments.
    reward = torch.tensor(
        [
            [0.0, 0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    advantage = group_advantage(reward, 3, 2, gamma=0.9)
    # Returns 0.9 and 0, mean and spread 0.45; 0 and 1; no success at all; 1 and 0.81.
    late = 0.45 / (0.45 + GROUP_EPS)
    soon = 0.5 / (0.5 + GROUP_EPS)
    both = 0.095 / (0.095 + GROUP_EPS)
    expected = [[late, -late, -soon, soon]] * 3 + [[0.0, 0.0, both, -both]] * 3
    torch.testing.assert_close(advantage, torch.tensor(expected))


def test_a_unanimous_group_says_nothing() -> None:
    reward = torch.zeros(2, 10)
    reward[1, :5] = 1.0  # all of the first group, at the same decision
    for gamma in (0.999, 0.3):
        assert torch.equal(group_advantage(reward, 2, 5, gamma), torch.zeros(2, 10))
    # Without a discount the decision of the success does not matter.
    reward[0, 0], reward[1, 0] = 1.0, 0.0
    assert torch.equal(group_advantage(reward, 2, 5, 1.0), torch.zeros(2, 10))
    # With one near 1 it does, but far less than success against failure.
    assert 0 < group_advantage(reward, 2, 5, 0.999).abs().max() < 0.02


@pytest.mark.parametrize(
    ("steps", "group", "message"),
    [
        (5, 2, r"finetune\.steps=5 is not a multiple of finetune\.max_decisions=2"),
        (4, 4, r"finetune\.envs=6 is not a multiple of finetune\.group=4"),
        (4, 1, r"finetune\.group=1"),
    ],
)
def test_parts_of_episodes_or_groups_are_refused(steps: int, group: int, message: str) -> None:
    with pytest.raises(WamError, match=message):
        group_advantage(torch.zeros(steps, 6), 2, group, 1.0)
