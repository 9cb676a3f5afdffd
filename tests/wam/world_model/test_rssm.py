from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence as reference_kl

from tests.wam.conftest import TINY
from wam.actions import NULL_ACTION
from wam.randomness import row_generators
from wam.world_model.model import WorldModel
from wam.world_model.rssm import (
    LayerNormGRUCell,
    Rssm,
    RssmState,
    StraightThrough,
    kl_divergence,
    kl_loss,
)

T, B = 6, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rssm(tiny_model: WorldModel) -> Rssm:
    return tiny_model.rssm


@pytest.fixture
def embedding() -> torch.Tensor:
    return torch.randn(T, B, 50, generator=generator(1))


@pytest.fixture
def action() -> torch.Tensor:
    return torch.rand(T, B, 7, generator=generator(2)) * 2 - 1


def filter_all(rssm, embedding, action, is_first, state, noise):  # type: ignore[no-untyped-def]
    states = []
    for t in range(len(embedding)):
        state = rssm.filter_step(state, action[t], embedding[t], is_first[t], noise)
        states.append(state)
    return RssmState(*(torch.stack(part) for part in zip(*states, strict=True)))


def test_observe_is_filtering_step_by_step(rssm, embedding, action) -> None:
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[2, 1] = True
    state = RssmState(torch.randn(B, 32, generator=generator(3)), torch.zeros(B, 16))
    observed = rssm.observe(embedding, action, is_first, state, row_generators(range(B)))
    filtered = filter_all(rssm, embedding, action, is_first, state, row_generators(range(B)))
    torch.testing.assert_close(observed.states.deter, filtered.deter, atol=1e-6, rtol=1e-5)
    assert torch.equal(observed.states.stoch, filtered.stoch)
    torch.testing.assert_close(
        observed.prior_logits, rssm.prior_logits(filtered.deter), atol=1e-5, rtol=1e-5
    )


def test_the_same_seed_gives_the_same_bits(rssm, embedding, action) -> None:
    is_first = torch.zeros(T, B, dtype=torch.bool)
    state = rssm.initial(B, "cpu")
    first = rssm.observe(embedding, action, is_first, state, generator(5))
    again = rssm.observe(embedding, action, is_first, state, generator(5))
    assert torch.equal(first.states.feature, again.states.feature)
    other = rssm.observe(embedding, action, is_first, state, generator(6))
    assert not torch.equal(first.states.stoch, other.states.stoch)


def test_a_rows_latents_do_not_depend_on_its_neighbours(rssm, embedding, action) -> None:
    is_first = torch.zeros(T, B, dtype=torch.bool)
    together = filter_all(
        rssm, embedding, action, is_first, rssm.initial(B, "cpu"), row_generators([4, 5, 6])
    )
    alone = filter_all(
        rssm,
        embedding[:, 1:2],
        action[:, 1:2],
        is_first[:, 1:2],
        rssm.initial(1, "cpu"),
        row_generators([5]),
    )
    assert torch.equal(together.stoch[:, 1:2], alone.stoch)


def test_after_a_reset_nothing_of_the_past_is_left(rssm, embedding, action) -> None:
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[3] = True
    outcomes = []
    for past in (1.0, -2.0):
        state = RssmState(torch.full((B, 32), past / 4), torch.zeros(B, 16))
        changed = embedding.clone()
        changed[:3] += past
        actions = action.clone()
        actions[:4] = past / 2  # the action that led to the reset frame counts as past
        noise = row_generators(range(B))
        outcomes.append(rssm.observe(changed, actions, is_first, state, noise))
    first, second = outcomes
    assert not torch.equal(first.states.deter[2], second.states.deter[2])
    assert torch.equal(first.states.feature[3:], second.states.feature[3:])
    assert torch.equal(first.prior_logits[3:], second.prior_logits[3:])


def test_a_reset_means_zero_state_and_null_action(rssm, embedding, action) -> None:
    reset = rssm.filter_step(
        RssmState(torch.randn(B, 32, generator=generator()), torch.ones(B, 16)),
        action[0],
        embedding[0],
        torch.ones(B, dtype=torch.bool),
        row_generators(range(B)),
    )
    null = torch.tensor(NULL_ACTION).expand(B, -1)
    plain = rssm.filter_step(
        rssm.initial(B, "cpu"),
        null,
        embedding[0],
        torch.zeros(B, dtype=torch.bool),
        row_generators(range(B)),
    )
    assert torch.equal(reset.feature, plain.feature)


def test_imagining_and_filtering_share_the_recurrent_step(rssm, embedding, action) -> None:
    state = RssmState(torch.randn(B, 32, generator=generator()), torch.zeros(B, 16))
    never = torch.zeros(B, dtype=torch.bool)
    filtered = rssm.filter_step(state, action[0], embedding[0], never, generator())
    imagined = rssm.imagine_step(state, action[0], generator())
    assert torch.equal(filtered.deter, imagined.deter)


def test_imagining_with_a_prior_equal_to_the_posterior_is_filtering(
    rssm, embedding, action
) -> None:
    with torch.no_grad():  # a posterior that ignores the image is a prior
        rssm.posterior_embedding.weight.zero_()
        for name in ("deter", "norm", "out"):
            source, target = getattr(rssm, f"posterior_{name}"), getattr(rssm, f"prior_{name}")
            target.load_state_dict(source.state_dict())
    never = torch.zeros(T, B, dtype=torch.bool)
    start = RssmState(torch.randn(B, 32, generator=generator()), torch.zeros(B, 16))
    filtered = filter_all(rssm, embedding, action, never, start, row_generators(range(B)))
    state, noise = start, row_generators(range(B))
    for t in range(T):
        # A copy: matrix products of a slice may round differently for its alignment in memory.
        state = rssm.imagine_step(state, action[t].clone(), noise)
        assert torch.equal(state.feature, filtered.feature[t])


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    noise = torch.tensor([0.05, 0.0999, 0.1001, 0.65, 0.7001, 0.9999])
    drawn = StraightThrough.apply(logits.expand(6, 3), noise)
    assert drawn.argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(drawn.sum(-1), torch.ones(6))
    assert StraightThrough.apply(logits, None).tolist() == [0.0, 1.0, 0.0]


def test_straight_through_has_the_gradient_of_the_softmax() -> None:
    raw = torch.randn(4, 5, generator=generator(), requires_grad=True)
    weight = torch.randn(4, 5, generator=generator(1))
    drawn = StraightThrough.apply(raw.log_softmax(-1), torch.rand(4, generator=generator(2)))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    (gradient,) = torch.autograd.grad((drawn * weight).sum(), raw)
    (expected,) = torch.autograd.grad((raw.softmax(-1) * weight).sum(), raw)
    torch.testing.assert_close(gradient, expected)


def logits(seed: int) -> torch.Tensor:
    """Unnormalised, [T, B, 32, 32]"""
    return torch.randn(2, 3, 32, 32, generator=generator(seed), requires_grad=True)


def test_kl_is_summed_over_categoricals_and_zero_for_equals() -> None:
    posterior, prior = logits(0).log_softmax(-1), logits(1).log_softmax(-1)
    expected = reference_kl(Categorical(logits=posterior), Categorical(logits=prior)).sum(-1)
    torch.testing.assert_close(kl_divergence(posterior, prior), expected)
    assert kl_divergence(posterior, posterior).abs().max() < 1e-6
    torch.testing.assert_close(kl_loss(posterior, prior, 0.8, 0.0), expected.mean())


def test_kl_stays_finite_where_probabilities_underflow() -> None:
    sharp = torch.full((1, 1, 1, 4), -300.0)
    sharp[..., 0] = 0.0
    other = sharp.roll(1, -1)
    assert torch.isfinite(kl_divergence(sharp.log_softmax(-1), other.log_softmax(-1))).all()


@pytest.mark.parametrize("balance", [0.0, 0.8, 1.0])
def test_the_balance_weighs_the_prior_side(balance: float) -> None:
    gradients = {}
    for weight in (balance, 0.5):
        raw_posterior, raw_prior = logits(0), logits(1)
        kl_loss(raw_posterior.log_softmax(-1), raw_prior.log_softmax(-1), weight, 0.0).backward()
        gradients[weight] = (raw_posterior.grad, raw_prior.grad)
    for side, share in ((0, 1 - balance), (1, balance)):
        torch.testing.assert_close(gradients[balance][side], gradients[0.5][side] * share / 0.5)


def test_free_nats_are_applied_after_averaging() -> None:
    posterior, prior = logits(0).log_softmax(-1), logits(1).log_softmax(-1)
    mean = float(kl_divergence(posterior, prior).mean().detach())
    assert float(kl_loss(posterior, prior, 0.8, mean - 1).detach()) == pytest.approx(mean, rel=1e-6)
    assert float(kl_loss(posterior, prior, 0.8, mean + 1).detach()) == pytest.approx(
        mean + 1, rel=1e-6
    )


def test_unimix_keeps_every_class_possible() -> None:
    rssm = Rssm(embedding=8, deter=8, stoch=2, classes=4, hidden=8, unimix=0.04)
    torch.nn.init.constant_(rssm.prior_out.weight, 0.0)
    rssm.prior_out.bias.data = torch.tensor([100.0, 0, 0, 0, 0, 0, 0, 100.0])
    probabilities = rssm.prior_logits(torch.zeros(1, 8)).exp()
    torch.testing.assert_close(probabilities[0, 0], torch.tensor([0.97, 0.01, 0.01, 0.01]))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 2))


def test_layernorm_cell_follows_its_formula() -> None:
    cell = LayerNormGRUCell(3, 4)
    inputs, deter = torch.randn(2, 3), torch.randn(2, 4)
    gates = torch.cat([inputs, deter], 1) @ cell.gates.weight.t()
    centred = gates - gates.mean(1, keepdim=True)
    gates = centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt()
    reset, candidate, update = gates[:, :4], gates[:, 4:8], gates[:, 8:]
    share = 1 / (1 + torch.exp(1 - update))
    expected = share * torch.tanh(candidate / (1 + torch.exp(-reset))) + (1 - share) * deter
    torch.testing.assert_close(cell(inputs, deter), expected)


def test_the_reference_keeps_the_action_on_a_reset(rssm, embedding, action) -> None:
    is_first = torch.zeros(embedding.shape[:2], dtype=torch.bool)
    is_first[2] = True
    start = rssm.initial(embedding.shape[1], "cpu")

    def observe(action: torch.Tensor, reset_actions: bool) -> torch.Tensor:
        noise = torch.Generator().manual_seed(0)
        states = rssm.observe(
            embedding, action, is_first, start, noise, reset_actions=reset_actions
        ).states
        return states.deter[2]

    other = action.clone()
    other[2] += 1
    assert torch.equal(observe(action, True), observe(other, True))
    assert not torch.equal(observe(action, False), observe(other, False))


def test_probabilities_stand_for_the_draw_that_they_describe(embedding, action) -> None:
    config = {"embedding": 50, "deter": 32, "stoch": 4, "classes": 4, "hidden": 32}
    rssm = Rssm(**config, latent="probabilities")
    is_first = torch.zeros(T, B, dtype=torch.bool)
    state = rssm.initial(B, "cpu")
    observed = rssm.observe(embedding, action, is_first, state, generator(5))
    assert torch.equal(observed.states.stoch, observed.posterior_logits.exp().flatten(-2))
    other = rssm.observe(embedding, action, is_first, state, generator(6))
    assert torch.equal(observed.states.stoch, other.states.stoch)
    last = RssmState(*(part[-1] for part in observed.states))
    imagined = rssm.imagine_step(last, action[0], generator())
    torch.testing.assert_close(imagined.stoch, rssm.prior_logits(imagined.deter).exp().flatten(-2))
    assert not torch.equal(imagined.stoch.round(), imagined.stoch)


def test_a_blind_row_goes_on_as_in_imagination(rssm, embedding, action) -> None:
    is_first = torch.zeros(T, B, dtype=torch.bool)
    seen = torch.ones(T, B, dtype=torch.bool)
    seen[2:, 1] = False
    state = rssm.initial(B, "cpu")
    observed = rssm.observe(embedding, action, is_first, state, row_generators(range(B)), seen=seen)
    looking = rssm.observe(embedding, action, is_first, state, row_generators(range(B)))
    assert torch.equal(observed.states.feature[:, [0, 2]], looking.states.feature[:, [0, 2]])
    generators = row_generators(range(B))
    for _ in range(2):
        torch.rand(4, generator=generators[1])
    dream = RssmState(*(part[1, 1:2] for part in looking.states))
    for t in range(2, T):
        dream = rssm.imagine_step(dream, action[t, 1:2], [generators[1]])
        torch.testing.assert_close(observed.states.deter[t, 1:2], dream.deter)
        assert torch.equal(observed.states.stoch[t, 1:2], dream.stoch)
    # What the frame would have told is still known there.
    assert not torch.equal(observed.posterior_logits[3, 1], observed.prior_logits[3, 1])


def test_a_cell_that_remembers_keeps_its_state() -> None:
    forgetful, remembering = (
        WorldModel(replace(TINY, keep_bias=bias), seed=1).rssm for bias in (0.0, 4.0)
    )
    state = RssmState(torch.full((1, 32), 0.5), torch.zeros(1, 16))
    kept = [
        rssm.imagine_step(state, torch.zeros(1, 7), generator()).deter.mean().item()
        for rssm in (forgetful, remembering)
    ]
    assert abs(kept[1] - 0.5) < 0.1 * abs(kept[0] - 0.5)
