from dataclasses import replace

import pytest
import torch

from tests.wam.policy.small_policy import CONFIG, FEATURE
from wam.errors import WamError
from wam.policy.cloning import ChunkDataset, chunk_dataset, clone, learning_rate
from wam.policy.policy import DiffusionPolicy


def test_windows_stay_inside_their_demonstration() -> None:
    lengths = torch.tensor([6, 3, 4])
    actions = torch.arange(13).float().unsqueeze(1).expand(13, 7)
    data = chunk_dataset(torch.zeros(2, 13, FEATURE), None, actions, lengths)
    assert data.rows.tolist() == [0, 1, 2, 9]
    assert data.chunks.unflatten(-1, (4, 7))[:, :, 0].tolist() == [
        [0, 1, 2, 3],
        [1, 2, 3, 4],
        [2, 3, 4, 5],
        [9, 10, 11, 12],
    ]


def test_learning_rate_rises_to_its_maximum_and_ends_at_the_final_one() -> None:
    rates = [learning_rate(CONFIG, update) for update in range(1, CONFIG.updates + 1)]
    assert rates.index(max(rates)) == CONFIG.warmup - 1
    assert max(rates) == pytest.approx(CONFIG.lr)
    assert rates[-1] == pytest.approx(CONFIG.lr_final)


@pytest.fixture(scope="module")
def two_habits() -> ChunkDataset:
    """Windows of a task in which the first feature decides the direction of motion."""
    random = torch.Generator().manual_seed(0)
    direction = torch.where(torch.rand(200, generator=random) < 0.5, -1.0, 1.0)
    feature = 0.1 * torch.randn(2, 200, FEATURE, generator=random)
    feature[..., 0] = direction
    chunks = 0.6 * direction.unsqueeze(1) * torch.ones(200, 28)
    return ChunkDataset(feature, feature[0], chunks, torch.arange(200))


def train(data: ChunkDataset, log: list[dict[str, float]]) -> DiffusionPolicy:
    random = torch.Generator().manual_seed(0)
    network = clone(CONFIG, data, data, random, torch.device("cpu"), log.append)
    return DiffusionPolicy(network)


def test_cloning_learns_what_the_demonstrations_do(two_habits: ChunkDataset) -> None:
    log: list[dict[str, float]] = []
    policy = train(two_habits, log)
    feature = torch.zeros(40, FEATURE)
    feature[:20, 0], feature[20:, 0] = 1.0, -1.0
    actions = policy.act(feature, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions[:20, :, :6].mean(), torch.tensor(0.6), atol=0.1, rtol=0)
    torch.testing.assert_close(actions[20:, :, :6].mean(), torch.tensor(-0.6), atol=0.1, rtol=0)
    assert [record["step"] for record in log] == [100, 200, 300, 400, 500]
    assert log[-1]["validation_loss"] < log[0]["validation_loss"]


def test_cloning_is_a_function_of_its_generator(two_habits: ChunkDataset) -> None:
    torch.manual_seed(11)
    first = train(two_habits, [])
    torch.manual_seed(22)
    second = train(two_habits, [])
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_demonstrations_without_a_window_are_refused() -> None:
    data = chunk_dataset(torch.zeros(1, 6, FEATURE), None, torch.zeros(6, 7), torch.tensor([3, 3]))
    with pytest.raises(WamError, match="none has 4 frames"):
        clone(CONFIG, data, data, torch.Generator(), torch.device("cpu"), lambda record: None)


@pytest.mark.parametrize("log_every", [1, 7])
def test_cloning_stops_before_it_records_what_is_not_finite(
    two_habits: ChunkDataset, log_every: int
) -> None:
    log: list[dict[str, float]] = []
    config = replace(CONFIG, lr=float("inf"), updates=20, log_every=log_every)
    data = (two_habits, two_habits, torch.Generator(), torch.device("cpu"))
    with pytest.raises(WamError, match=f"train-policy, update {log_every}: .*; lower policy.lr"):
        clone(config, *data, log.append)
    assert log == []
