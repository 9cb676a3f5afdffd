from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.wam.policy.small_policy import CONFIG, FEATURE, make_feature, make_network
from wam.errors import WamError
from wam.policy.diffusion import NOISE_CLIP
from wam.policy.policy import (
    DiffusionPolicy,
    FinetunedPolicy,
    load_policy,
    policy_description,
    to_actions,
)
from wam.randomness import row_generators
from wam.weights import save_model


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
