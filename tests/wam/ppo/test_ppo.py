from dataclasses import replace

import pytest
import torch

from tests.wam.ppo.toy_bandit import (
    CPU,
    FEATURE,
    FINETUNE,
    BanditDynamics,
    BanditSuccess,
    train_base,
)
from wam.config import FinetuneConfig
from wam.errors import WamError
from wam.policy.diffusion import log_prob
from wam.policy.network import DiffusionMlp
from wam.policy.policy import FinetunedPolicy, Policy
from wam.ppo.advantage import signal
from wam.ppo.imagination import LatentEnv, Uncertainty, imagined_outcome
from wam.ppo.ppo import Dppo, clip_ranges, collect, experience_report, gaussian_kl

BANDIT_GROUPS = replace(FINETUNE, advantage="group", group=4)
GROUPED = replace(BANDIT_GROUPS, max_decisions=3, gamma=0.9)


@pytest.fixture(scope="module")
def base() -> DiffusionMlp:
    return train_base(0)


def make_dppo(base: DiffusionMlp, config: FinetuneConfig = FINETUNE, seed: int = 0) -> Dppo:
    return Dppo(base, FEATURE, config, torch.Generator().manual_seed(seed))


def make_env(
    config: FinetuneConfig, random: torch.Generator, uncertainty: Uncertainty | None = None
) -> LatentEnv:
    return LatentEnv(
        BanditDynamics(),
        BanditSuccess(),
        [torch.zeros(1, FEATURE)],
        config.envs,
        config.max_decisions,
        random,
        config.group if config.advantage == "group" else None,
        uncertainty,
        config.disagreement_scale,
    )


def success_rate(policy: Policy) -> float:
    outcome = imagined_outcome(
        BanditDynamics(),
        BanditSuccess(),
        policy,
        torch.zeros(400, FEATURE),
        1,
        torch.Generator().manual_seed(9),
    )
    return float(outcome.float().mean())


def test_clip_range_grows_towards_the_last_denoising_step() -> None:
    by_k = "0.01 .00732 .00539 .00401 .00303 .00232 .00181 .00145 .00119 .001"
    expected = torch.tensor([float(value) for value in by_k.split()])
    torch.testing.assert_close(clip_ranges(10, 0.001, 0.01), expected, atol=1e-5, rtol=0)
    assert clip_ranges(1, 0.001, 0.01).tolist() == [pytest.approx(0.01)]


def test_the_first_gradient_step_sees_a_ratio_of_exactly_one(base: DiffusionMlp) -> None:
    config = replace(FINETUNE, critic_warmup=0, epochs=1, minibatch=10**6)
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base, config)
    rollout = collect(make_env(config, random), dppo.policy, config.steps, 0.1, random)
    report = dppo.update(rollout, random)
    assert report["gradient_steps"] == 1
    assert report["bc_kl"] == 0
    assert report["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert report["clip_fraction_by_k"] == [0.0] * config.finetuned_steps
    assert report["actor_distance"] > 0


def test_stored_log_probabilities_are_those_of_the_sampled_transitions(base: DiffusionMlp) -> None:
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base)
    policy = dppo.policy
    with torch.no_grad():
        for values in policy.actor.parameters():
            values += 0.01 * torch.randn(values.shape, generator=random)
    rollout = collect(make_env(FINETUNE, random), policy, 3, 0.1, random)
    advantage, returns, _ = dppo._advantages(rollout)
    pairs = dppo._pairs(rollout, advantage, returns)
    chain, feature = rollout.chain.flatten(0, 1), rollout.feature.flatten(0, 1)
    std = policy.schedule.exploration_std(0.1)
    stored = pairs.log_prob_P.unflatten(0, (len(chain), FINETUNE.finetuned_steps))
    for j in range(FINETUNE.finetuned_steps):
        k = torch.full((len(chain),), FINETUNE.finetuned_steps - 1 - j)
        for network, means in ((policy.actor, None), (policy.base, pairs.base_mean_PA)):
            predicted = network(chain[:, j], k, feature)
            mean = policy.schedule.mean(chain[:, j], predicted, k)
            if means is None:
                expected = log_prob(chain[:, j + 1], mean, std[k])
                torch.testing.assert_close(stored[:, j], expected, atol=1e-4, rtol=1e-4)
            else:
                ours = means.unflatten(0, (len(chain), -1))[:, j]
                torch.testing.assert_close(ours, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("over", "minibatch"), [("pair", 100), ("decision", 50)])
def test_minibatches_cover_every_pair_once(base: DiffusionMlp, over: str, minibatch: int) -> None:
    config = replace(FINETUNE, minibatch_over=over, minibatch=minibatch)
    dppo = make_dppo(base, config)
    batches = list(dppo._minibatches(70, torch.Generator().manual_seed(0)))
    steps = config.finetuned_steps
    assert sorted(torch.cat(batches).tolist()) == list(range(70 * steps))
    if over == "pair":
        assert [len(batch) for batch in batches] == [100, 100, 100, 50]
    else:
        assert [len(batch) for batch in batches] == [50 * steps, 20 * steps]
        assert len((batches[0] // steps).unique()) == 50


def test_closed_form_regulariser_has_the_gradient_of_the_sampled_one(base: DiffusionMlp) -> None:
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base)
    actor, schedule = dppo.policy.actor, dppo.policy.schedule
    with torch.no_grad():
        for values in actor.parameters():
            values += 0.02 * torch.randn(values.shape, generator=random)
    # One latent, repeated: at k = 4 a clipped draw stays within the clamp of the log-probability.
    rows, k = 20_000, torch.full((20_000,), 4)
    noisy = torch.randn(1, 28, generator=random).expand(rows, 28)
    feature = torch.zeros(rows, FEATURE)
    std = schedule.exploration_std(0.1)[k]

    def means(network: DiffusionMlp) -> torch.Tensor:
        return schedule.mean(noisy, network(noisy, k, feature), k)

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(loss, list(actor.body.last.parameters()))
        return torch.cat([part.flatten() for part in parts])

    with torch.no_grad():
        base_mean = means(dppo.policy.base)
        noise = torch.randn(rows, 28, generator=random).clamp(-3, 3)
        sampled = base_mean + std.unsqueeze(1) * noise
    closed = gradient(gaussian_kl(base_mean, means(actor), std))
    estimated = gradient(-log_prob(sampled, means(actor), std).mean())
    assert closed.norm() > 0
    assert (estimated - closed).norm() / closed.norm() < 0.1


@pytest.mark.parametrize("config", [FINETUNE, BANDIT_GROUPS], ids=lambda c: c.advantage)
def test_dppo_learns_a_bandit_within_twenty_iterations(
    base: DiffusionMlp, config: FinetuneConfig
) -> None:
    _check_learning(base, config, 0)


def test_a_strong_regulariser_keeps_the_policy_at_its_base(base: DiffusionMlp) -> None:
    _check_regulariser(base, FINETUNE, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_every_seed_learns_the_bandit_and_obeys_the_regulariser(seed: int) -> None:
    base = train_base(seed)
    for config in (FINETUNE, BANDIT_GROUPS):
        _check_learning(base, config, seed)
        _check_regulariser(base, config, seed)


def _check_learning(base: DiffusionMlp, config: FinetuneConfig, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    dppo = make_dppo(base, config, seed)
    before = success_rate(dppo.policy)
    env = make_env(config, random)
    reports = [dppo.train_iteration(env, random) for _ in range(20)]
    assert before < 0.35
    assert success_rate(dppo.policy) > before + 0.3
    assert reports[-1]["explored_success"] > reports[0]["explored_success"] + 0.2
    assert all(report["finished_episodes"] == 64 * 6 for report in reports)


def _check_regulariser(base: DiffusionMlp, config: FinetuneConfig, seed: int) -> None:
    config = replace(config, bc_scale=100.0)
    random = torch.Generator().manual_seed(seed)
    dppo = make_dppo(base, config, seed)
    before = success_rate(dppo.policy)
    env = make_env(config, random)
    for _ in range(10):
        report = dppo.train_iteration(env, random)
    assert report["bc_kl"] < 1e-3
    assert success_rate(dppo.policy) == pytest.approx(before, abs=0.05)


def test_the_actor_rests_while_the_critic_warms_up(base: DiffusionMlp) -> None:
    config = replace(FINETUNE, critic_warmup=1, epochs=1)
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base, config)
    env = make_env(config, random)
    assert dppo.train_iteration(env, random)["actor_distance"] == 0
    assert dppo.train_iteration(env, random)["actor_distance"] > 0


def test_the_base_never_changes(base: DiffusionMlp) -> None:
    before = {name: values.clone() for name, values in base.state_dict().items()}
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base, replace(FINETUNE, critic_warmup=0))
    dppo.train_iteration(make_env(FINETUNE, random), random)
    assert all(torch.equal(base.state_dict()[name], before[name]) for name in before)
    assert isinstance(dppo.policy, FinetunedPolicy)
    assert not any(values.requires_grad for values in dppo.policy.base.parameters())


def test_a_resumed_run_equals_an_uninterrupted_one(base: DiffusionMlp) -> None:
    _check_resumption(base, replace(FINETUNE, critic_warmup=1))


def _check_resumption(base: DiffusionMlp, config: FinetuneConfig) -> None:
    random = torch.Generator().manual_seed(0)
    whole = make_dppo(base, config)
    env = make_env(config, random)
    for _ in range(2):
        whole.train_iteration(env, random)
    saved, place = whole.state_dict(), random.get_state()
    saved = {name: _copy(value) for name, value in saved.items()}
    expected = whole.train_iteration(env, random)
    resumed = Dppo(base, FEATURE, config, torch.Generator().manual_seed(5))
    resumed.load_state_dict(saved)
    again = torch.Generator()
    env = make_env(config, again)
    again.set_state(place)
    assert resumed.train_iteration(env, again) == expected


def _copy(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_copy(part) for part in value]
    return value


def test_on_the_cpu_the_device_is_the_base_s(base: DiffusionMlp) -> None:
    dppo = make_dppo(base)
    assert {values.device for values in dppo.policy.parameters()} == {CPU}


def test_groups_have_no_critic_and_waiting_rows_go_nowhere(base: DiffusionMlp) -> None:
    config = replace(GROUPED, epochs=1)
    random = torch.Generator().manual_seed(0)
    rollout = collect(make_env(config, random), make_dppo(base).policy, config.steps, 0.1, random)
    active = rollout.active
    # Some wait, and none does at the beginning of a round.
    assert not active.all() and active[0].all() and active[3].all()
    noise = rollout._replace(
        feature=rollout.feature.masked_fill(~active.unsqueeze(-1), torch.nan),
        chain=rollout.chain.masked_fill(~active[..., None, None], torch.nan),
        next_feature=rollout.next_feature.masked_fill(~active.unsqueeze(-1), torch.nan),
    )
    reports, states = [], []
    for experience in (rollout, noise):
        dppo = make_dppo(base, config)
        reports.append(
            experience_report(experience)
            | dppo.update(experience, torch.Generator().manual_seed(1))
        )
        states.append(dppo.state_dict())
    assert reports[0] == reports[1]
    report, state = reports[0], states[0]
    assert report["value_loss"] is None and report["explained_variance"] is None
    assert state["critic"] is None
    assert report["actor_distance"] > 0  # nothing to warm up
    pairs = int(active.sum()) * config.finetuned_steps
    assert report["gradient_steps"] == -(-pairs // config.minibatch)
    assert report["finished_episodes"] == 2 * config.envs
    decision = torch.arange(config.steps).unsqueeze(1) % 3 + 1
    expected = decision.expand_as(active)[rollout.terminated].float().mean()
    assert report["success_decision"] == pytest.approx(float(expected))


def test_a_unanimous_group_does_not_move_the_actor(base: DiffusionMlp) -> None:
    config = replace(GROUPED, bc_scale=0.0)
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base, config)
    rollout = collect(make_env(config, random), dppo.policy, config.steps, 0.1, random)
    rollout = rollout._replace(reward=torch.zeros_like(rollout.reward))
    assert dppo.update(rollout, random)["actor_distance"] == 0


class UncertainAboutSuccess:
    def excess(self, feature: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return (action[..., :6].mean(-1) > 0.3).float()


@pytest.mark.parametrize("config", [FINETUNE, BANDIT_GROUPS], ids=lambda c: c.advantage)
def test_a_penalty_turns_the_policy_away_from_what_is_uncertain(
    base: DiffusionMlp, config: FinetuneConfig
) -> None:
    config = replace(config, disagreement_scale=2.0)
    random = torch.Generator().manual_seed(0)
    dppo = make_dppo(base, config)
    before = success_rate(dppo.policy)
    env = make_env(config, random, UncertainAboutSuccess())
    reports = [dppo.train_iteration(env, random) for _ in range(10)]
    assert success_rate(dppo.policy) < before / 2
    assert 0 < reports[-1]["penalty"] < reports[0]["penalty"] / 2


def test_a_resumed_run_of_groups_equals_an_uninterrupted_one(base: DiffusionMlp) -> None:
    _check_resumption(base, GROUPED)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"actor_lr": float("inf")}, "actor: .* is not finite any more; lower finetune.actor_lr"),
        (
            {"critic_lr": float("inf")},
            "critic: .* is not finite any more; lower finetune.crit",
        ),
    ],
)
def test_an_iteration_that_loses_itself_is_the_last(
    base: DiffusionMlp, broken: dict, message: str
) -> None:
    config = replace(FINETUNE, critic_warmup=0, epochs=1, **broken)
    random = torch.Generator().manual_seed(0)
    with pytest.raises(WamError, match=f"finetune, iteration 1, {message}"):
        make_dppo(base, config).train_iteration(make_env(config, random), random)


def test_a_single_decision_has_figures(base: DiffusionMlp) -> None:
    config = replace(FINETUNE, envs=1, steps=1, critic_warmup=0)
    random = torch.Generator().manual_seed(0)
    record = make_dppo(base, config).train_iteration(make_env(config, random), random)
    assert torch.isfinite(torch.tensor([record["explained_variance"], record["approx_kl"]])).all()


class Certain(BanditSuccess):
    """Whatever is done succeeds."""

    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return torch.ones(feature.shape[:-1], dtype=torch.bool)


@pytest.mark.parametrize(("floor", "stays"), [(0.0, False), (0.3, True)])
def test_an_actor_with_nothing_to_learn_stays_where_it_is(
    base: DiffusionMlp, floor: float, stays: bool
) -> None:
    config = replace(FINETUNE, outcome_floor=floor, critic_warmup=0, bc_scale=0.0)
    dppo = make_dppo(base, config)
    random = torch.Generator().manual_seed(3)
    env = LatentEnv(
        BanditDynamics(),
        Certain(),
        [torch.zeros(1, FEATURE)],
        config.envs,
        config.max_decisions,
        random,
        None,
        None,
        0.0,
    )
    record = dppo.train_iteration(env, random)
    assert record["explored_success"] == 1
    assert (record["actor_distance"] == 0) == stays
    assert record.get("signal") == (0 if floor else None)


def test_the_signal_is_how_much_outcomes_differ() -> None:
    assert signal(0.5, 0.3) == signal(0.1, 0.3) == 1
    assert signal(0.98, 0.28) == pytest.approx(0.5)
    assert signal(None, 0.3) == signal(0.0, 0.3) == signal(1.0, 0.3) == 0
