from itertools import pairwise

import pytest
import torch

from wam.errors import WamError
from wam.policy.diffusion import Schedule, log_prob

BETA = """.0080 .0201 .0323 .0447 .0575 .0710 .0852 .1005 .1173 .1359 .1570 .1814 .2102 .2454
    .2897 .3481 .4294 .5510 .7485 .9990"""
ALPHA_BAR = """.99201 .97209 .94074 .89871 .84701 .78691 .71986 .64748 .57153 .49384 .41631 .34081
    .26917 .20312 .14427 .09405 .05366 .02409 .00606 .00001"""
STD = """0 .0758 .1232 .1617 .1952 .2257 .2546 .2827 .3107 .3392 .3690 .4007 .4354 .4744 .5194
    .5734 .6412 .7310 .8573 .9965"""
CLEAN = """1 .7165 .5366 .4278 .3564 .3065 .2698 .2420 .2203 .2030 .1890 .1775 .1679 .1598 .1526
    .1460 .1392 .1308 .1169 .0778"""
NOISY = """0 .2835 .4633 .5718 .6428 .6920 .7275 .7537 .7730 .7869 .7962 .8012 .8016 .7967 .7848
    .7626 .7231 .6498 .4924 .0314"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("beta", BETA),
        ("alpha_bar", ALPHA_BAR),
        ("posterior_std", STD),
        ("clean_weight", CLEAN),
        ("noisy_weight", NOISY),
    ],
)
def test_twenty_step_schedule_has_the_tabulated_constants(name: str, expected: str) -> None:
    values = torch.tensor([float(value) for value in expected.split()])
    torch.testing.assert_close(getattr(Schedule(20), name), values, atol=1e-4, rtol=0)


def test_constants_are_not_part_of_the_weights() -> None:
    assert not Schedule(20).state_dict()


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_a_step_is_that_of_an_independent_implementation(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.DDPMScheduler(
        num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )
    schedule = Schedule(steps)
    random = torch.Generator().manual_seed(0)
    for k in range(steps):
        noisy, predicted = torch.randn(2, 6, 28, generator=random).unbind()
        noise = torch.randn(6, 28, generator=torch.Generator().manual_seed(k))
        expected = oracle.step(
            predicted, k, noisy, generator=torch.Generator().manual_seed(k)
        ).prev_sample
        ours = schedule.mean(noisy, predicted, k) + schedule.posterior_std[k] * noise
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_adding_noise_is_that_of_an_independent_implementation() -> None:
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.DDPMScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2")
    k = torch.arange(20)
    clean, noise = torch.randn(2, 20, 28, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(
        Schedule(20).add_noise(clean, noise, k), oracle.add_noise(clean, noise, k)
    )


def test_the_true_noise_leads_back_to_the_clean_sample() -> None:
    schedule = Schedule(20)
    random = torch.Generator().manual_seed(1)
    clean = torch.rand(8, 28, generator=random) * 1.8 - 0.9
    latent = torch.randn(8, 28, generator=random)
    for k in reversed(range(20)):
        level = schedule.alpha_bar[k]
        true_noise = (latent - level.sqrt() * clean) / (1 - level).sqrt()
        torch.testing.assert_close(
            schedule.clean(latent, true_noise, k), clean, atol=1e-3 if k == 19 else 1e-5, rtol=0
        )
        latent = schedule.mean(latent, true_noise, k)
        latent = latent + schedule.evaluation_std()[k] * torch.randn(8, 28, generator=random)
    torch.testing.assert_close(latent, clean, atol=1e-5, rtol=0)


def test_k_as_a_tensor_selects_constants_per_row() -> None:
    schedule = Schedule(20)
    noisy, noise = torch.randn(2, 20, 28, generator=torch.Generator().manual_seed(0)).unbind()
    together = schedule.mean(noisy, noise, torch.arange(20))
    for k in range(20):
        torch.testing.assert_close(together[k], schedule.mean(noisy[k], noise[k], k))


def test_exploration_and_evaluation_differ_in_the_last_two_steps_only() -> None:
    schedule = Schedule(20)
    exploration, evaluation = schedule.exploration_std(0.1), schedule.evaluation_std()
    torch.testing.assert_close(exploration[:2], torch.tensor([0.1, 0.1]))
    assert evaluation[0] == 0
    assert evaluation[1] == schedule.posterior_std[1]
    assert torch.equal(exploration[2:], evaluation[2:])
    assert schedule.posterior_std[0] == 0


def test_log_probability_is_the_clamped_mean_of_the_density() -> None:
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 28, generator=random)
    std = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.9])
    sample = mean + std.unsqueeze(1) * torch.randn(5, 28, generator=random).clamp(-2, 2)
    density = torch.distributions.Normal(mean, std.unsqueeze(1)).log_prob(sample)
    torch.testing.assert_close(log_prob(sample, mean, std), density.mean(-1))
    far = log_prob(mean + 100.0, mean, std)
    torch.testing.assert_close(far, torch.full((5,), -5.0))
    near = log_prob(mean, mean, torch.full((5,), 0.01))
    torch.testing.assert_close(near, torch.full((5,), 2.0))


def true_noise(
    schedule: Schedule, latent: torch.Tensor, clean: torch.Tensor, k: int
) -> torch.Tensor:
    level = schedule.alpha_bar[k]
    return (latent - level.sqrt() * clean) / (1 - level).sqrt()


@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_the_true_noise_leads_along_the_straight_path(count: int) -> None:
    """With it the deterministic path is known: the same sample and noise, mixed anew each time."""
    schedule = Schedule(20)
    random = torch.Generator().manual_seed(1)
    clean = torch.rand(8, 28, generator=random) * 1.8 - 0.9
    latent = torch.randn(8, 28, generator=random)
    noise = true_noise(schedule, latent, clean, 19)
    for level, lower in pairwise(schedule.ddim_levels(count)):
        predicted = true_noise(schedule, latent, clean, level - 1)
        latent = schedule.ddim(latent, predicted, level - 1, lower)
        expected = schedule.add_noise(clean, noise, lower - 1) if lower else clean
        torch.testing.assert_close(latent, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(latent, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20])
def test_deterministic_steps_are_those_of_an_independent_implementation(count: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.DDIMScheduler(
        num_train_timesteps=20,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        timestep_spacing="trailing",
    )
    oracle.set_timesteps(count)
    schedule = Schedule(20)
    steps = list(pairwise(schedule.ddim_levels(count)))
    assert [level - 1 for level, _ in steps] == oracle.timesteps.tolist()
    random = torch.Generator().manual_seed(0)
    for level, lower in steps:
        noisy, predicted = torch.randn(2, 6, 28, generator=random).unbind()
        expected = oracle.step(
            predicted, level - 1, noisy, eta=0.0, use_clipped_model_output=True
        ).prev_sample
        ours = schedule.ddim(noisy, predicted, level - 1, lower)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 21])
def test_steps_that_the_schedule_lacks_are_refused(count: int) -> None:
    with pytest.raises(WamError, match=f"ddim_steps={count}: expected 1 to 20"):
        Schedule(20).ddim_levels(count)
