from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from wam.config import PolicyConfig
from wam.errors import WamError
from wam.policy.cloning import Windows, clone, learning_rate, windows
from wam.policy.diffusion import NOISE_CLIP
from wam.policy.network import (
    DiffusionMlp,
    DiffusionPolicy,
    FinetunedPolicy,
    ResidualMlp,
    build_network,
    load_policy,
    policy_description,
    to_actions,
)
from wam.randomness import row_generators
from wam.training.checkpoint import save_model

FEATURE = 12
CONFIG = PolicyConfig(
    hidden=(128, 128, 128),
    diffusion_steps=10,
    updates=500,
    batch=64,
    lr=3e-3,
    warmup=20,
    ema_decay=0.98,
    log_every=100,
)


def make_network(seed: int) -> DiffusionMlp:
    torch.manual_seed(seed)
    return build_network(CONFIG, FEATURE)


def make_feature(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, FEATURE, generator=torch.Generator().manual_seed(seed))


def parameters(module: torch.nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())


def test_paper_sizes_have_the_paper_number_of_parameters() -> None:
    assert parameters(build_network(PolicyConfig(), 2048)) == pytest.approx(1.612e6, rel=0.005)
    assert parameters(ResidualMlp(2048, (256, 256, 256), 1)) == pytest.approx(0.656e6, rel=0.005)


def test_an_even_number_of_widths_is_refused() -> None:
    with pytest.raises(WamError, match="odd number"):
        ResidualMlp(4, (8, 8), 1)


def test_the_first_layer_in_parts_is_one_layer_on_all_inputs() -> None:
    network = make_network(0)
    noisy, feature = torch.randn(10, 28), make_feature(10)
    k = torch.arange(10)
    half = torch.exp(-torch.log(torch.tensor(1e4)) * torch.arange(8) / 7)
    angle = k.unsqueeze(1) * half
    step = network.time(torch.cat([angle.sin(), angle.cos()], dim=1))
    parts = (network.from_chunk, network.from_step, network.from_feature)
    weight = torch.cat([part.weight for part in parts], dim=1)
    inputs = torch.cat([noisy, step, feature], dim=1)
    whole = network.body(inputs @ weight.T + network.from_feature.bias)
    torch.testing.assert_close(network(noisy, k, feature), whole, atol=1e-5, rtol=1e-5)


def test_actions_are_executable() -> None:
    actions = DiffusionPolicy(make_network(0)).act(
        make_feature(6), torch.Generator().manual_seed(0)
    )
    assert actions.shape == (6, 4, 7)
    assert actions.dtype == torch.float32
    assert actions[..., :6].abs().max() <= 1
    assert set(actions[..., 6].unique().tolist()) <= {-1.0, 1.0}


def test_a_row_with_its_own_generator_does_not_depend_on_the_other_rows() -> None:
    policy = DiffusionPolicy(make_network(0))
    feature = make_feature(5)
    together = policy.act(feature, row_generators(range(5)))
    alone = policy.act(feature[3:4], row_generators([3]))
    torch.testing.assert_close(alone[0], together[3], atol=1e-5, rtol=0)


def test_chain_transitions_use_the_step_that_their_index_says() -> None:
    steps, share = CONFIG.diffusion_steps, 4
    policy = FinetunedPolicy(make_network(0), make_network(1), share)
    feature = make_feature(6)
    chain = policy.explore(feature, torch.Generator().manual_seed(3), min_std=0.1)
    assert chain.shape == (6, share + 1, 28)
    noise = torch.randn(6, steps + 1, 28, generator=torch.Generator().manual_seed(3))
    noise = noise[:, 1:].clamp(-NOISE_CLIP, NOISE_CLIP)
    std = policy.schedule.exploration_std(0.1)
    for j in range(share):
        k = share - 1 - j
        predicted = policy.actor(chain[:, j], torch.full((6,), k), feature)
        mean = policy.schedule.mean(chain[:, j], predicted, k)
        drawn = (chain[:, j + 1] - mean) / std[k]
        torch.testing.assert_close(drawn, noise[:, steps - share + j], atol=1e-4, rtol=1e-4)


def test_an_actor_equal_to_the_base_acts_as_the_base() -> None:
    base = make_network(0)
    cloned, finetuned = DiffusionPolicy(base), FinetunedPolicy(base, make_network(0), 4)
    feature = make_feature(6)
    actions = [
        policy.act(feature, torch.Generator().manual_seed(0)) for policy in (cloned, finetuned)
    ]
    assert torch.equal(*actions)


@pytest.mark.parametrize("part", ["base", "actor"])
def test_evaluation_uses_both_networks(part: str, tmp_path: Path) -> None:
    policy = FinetunedPolicy(make_network(0), make_network(1), 4)
    save_model(tmp_path, policy, policy_description(CONFIG, FEATURE, 4))
    loaded = load_policy(tmp_path, torch.device("cpu"))
    feature = make_feature(6)
    before = policy.act(feature, torch.Generator().manual_seed(0))
    assert torch.equal(loaded.act(feature, torch.Generator().manual_seed(0)), before)
    with torch.no_grad():
        for values in getattr(loaded, part).parameters():
            values.zero_()
    assert not torch.equal(loaded.act(feature, torch.Generator().manual_seed(0)), before)


def test_deterministic_sampling_depends_on_the_start_noise_alone() -> None:
    policy = DiffusionPolicy(make_network(0))
    feature = make_feature(6)
    start = torch.randn(6, 28, generator=torch.Generator().manual_seed(0))
    latent = start
    for k, lower in ((9, 6), (5, 3), (2, 0)):  # ten steps in three
        predicted = policy.base(latent, torch.full((6,), k), feature)
        latent = policy.schedule.ddim(latent, predicted, k, lower)
    actions = policy.act(feature, torch.Generator().manual_seed(0), ddim_steps=3)
    torch.testing.assert_close(actions[..., :6], to_actions(latent)[..., :6])
    generator = torch.Generator().manual_seed(0)
    policy.act(feature, generator, ddim_steps=3)
    follower = torch.Generator().manual_seed(0)
    torch.randn(6, 28, generator=follower)
    assert torch.equal(generator.get_state(), follower.get_state())


@pytest.mark.parametrize("steps", [3, 10])
def test_deterministic_steps_are_shared_as_the_stochastic_ones(steps: int) -> None:
    """The actor serves k < 4 and the base the others, whichever are left out."""
    policy = FinetunedPolicy(make_network(0), make_network(1), 4)
    feature = make_feature(6)
    latent = torch.randn(6, 28, generator=torch.Generator().manual_seed(0))
    for level, lower in pairwise(policy.schedule.ddim_levels(steps)):
        network = policy.actor if level - 1 < 4 else policy.base
        predicted = network(latent, torch.full((6,), level - 1), feature)
        latent = policy.schedule.ddim(latent, predicted, level - 1, lower)
    actions = policy.act(feature, torch.Generator().manual_seed(0), ddim_steps=steps)
    torch.testing.assert_close(actions[..., :6], to_actions(latent)[..., :6])


def test_a_saved_cloned_policy_acts_as_before(tmp_path: Path) -> None:
    policy = DiffusionPolicy(make_network(0))
    save_model(tmp_path, policy, policy_description(CONFIG, FEATURE))
    loaded = load_policy(tmp_path, torch.device("cpu"))
    feature = make_feature(3)
    expected = policy.act(feature, torch.Generator().manual_seed(0))
    assert torch.equal(loaded.act(feature, torch.Generator().manual_seed(0)), expected)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, DiffusionPolicy(make_network(0)), policy_description(CONFIG, FEATURE + 1))
    with pytest.raises(WamError, match="does not fit"):
        load_policy(tmp_path, torch.device("cpu"))


def test_windows_stay_inside_their_demonstration() -> None:
    lengths = torch.tensor([6, 3, 4])
    actions = torch.arange(13).float().unsqueeze(1).expand(13, 7)
    data = windows(torch.zeros(2, 13, FEATURE), None, actions, lengths)
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
def two_habits() -> Windows:
    """Windows of a task in which the first feature decides the direction of motion."""
    random = torch.Generator().manual_seed(0)
    direction = torch.where(torch.rand(200, generator=random) < 0.5, -1.0, 1.0)
    feature = 0.1 * torch.randn(2, 200, FEATURE, generator=random)
    feature[..., 0] = direction
    chunks = 0.6 * direction.unsqueeze(1) * torch.ones(200, 28)
    return Windows(feature, feature[0], chunks, torch.arange(200))


def train(data: Windows, log: list[dict[str, float]]) -> DiffusionPolicy:
    random = torch.Generator().manual_seed(0)
    network = clone(CONFIG, data, data, random, torch.device("cpu"), log.append)
    return DiffusionPolicy(network)


def test_cloning_learns_what_the_demonstrations_do(two_habits: Windows) -> None:
    log: list[dict[str, float]] = []
    policy = train(two_habits, log)
    feature = torch.zeros(40, FEATURE)
    feature[:20, 0], feature[20:, 0] = 1.0, -1.0
    actions = policy.act(feature, torch.Generator().manual_seed(0))
    torch.testing.assert_close(actions[:20, :, :6].mean(), torch.tensor(0.6), atol=0.1, rtol=0)
    torch.testing.assert_close(actions[20:, :, :6].mean(), torch.tensor(-0.6), atol=0.1, rtol=0)
    assert [record["step"] for record in log] == [100, 200, 300, 400, 500]
    assert log[-1]["validation_loss"] < log[0]["validation_loss"]


def test_cloning_is_a_function_of_its_generator(two_habits: Windows) -> None:
    torch.manual_seed(11)
    first = train(two_habits, [])
    torch.manual_seed(22)
    second = train(two_habits, [])
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_demonstrations_without_a_window_are_refused() -> None:
    data = windows(torch.zeros(1, 6, FEATURE), None, torch.zeros(6, 7), torch.tensor([3, 3]))
    with pytest.raises(WamError, match="none has 4 frames"):
        clone(CONFIG, data, data, torch.Generator(), torch.device("cpu"), lambda record: None)


@pytest.mark.parametrize("log_every", [1, 7])
def test_cloning_stops_before_it_records_what_is_not_finite(
    two_habits: Windows, log_every: int
) -> None:
    log: list[dict[str, float]] = []
    config = replace(CONFIG, lr=float("inf"), updates=20, log_every=log_every)
    data = (two_habits, two_habits, torch.Generator(), torch.device("cpu"))
    with pytest.raises(WamError, match=f"train-policy, update {log_every}: .*; lower policy.lr"):
        clone(config, *data, log.append)
    assert log == []
