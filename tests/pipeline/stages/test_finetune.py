"""Fine-tuning in imagination."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Literal

import pytest
import torch

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.finetuning import task
from pipeline.latents.features import load_features
from pipeline.params import Profile
from pipeline.stages import finetune
from tests.pipeline.artifact import remade
from tests.pipeline.small_run import CPU, TASK, VARIANT
from wam.config import FinetuneConfig
from wam.errors import WamError
from wam.policy.policy import FinetunedPolicy, load_policy
from wam.world_model.load import load_world_model


def test_fine_tuning_leaves_both_networks_and_an_unchanged_world_model(
    profile: Profile, trained: Layout
) -> None:
    finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    policy = load_policy(output / TASK / "seed-0", CPU)
    assert isinstance(policy, FinetunedPolicy)
    base = load_policy(trained.policy(VARIANT) / TASK, CPU).base
    for left, right in zip(policy.base.parameters(), base.parameters(), strict=True):
        assert torch.equal(left, right)
    weights = manifests.read_json(output / manifests.MANIFEST)["world_model_weights"]
    assert weights == task.weights_digest(load_world_model(trained.world_model(VARIANT), CPU)[0])
    figures = manifests.read_json(output / "summary.json")[TASK]
    assert 0 <= figures["imagined_success_last"] <= 1
    assert not (output / TASK / "seed-0" / "checkpoint.safetensors").exists()


def test_held_out_starts_are_watched_beside_the_training_ones(
    profile: Profile, trained: Layout
) -> None:
    settings = replace(profile.finetune, validate_every=3)
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    directory = trained.finetune(VARIANT) / TASK / "seed-0"
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    watched = [
        (record["step"], record["training_starts_success"], record["held_out_starts_success"])
        for record in map(json.loads, lines)
        if "held_out_starts_success" in record
    ]
    assert [step for step, *_ in watched] == [3, 4]
    summary = manifests.read_json(directory / "summary.json")
    assert summary["imagined_success_last"] == watched[-1][1]
    assert summary["held_out_imagined_success_last"] == watched[-1][2]


@pytest.mark.parametrize(
    ("first", "now", "starts", "warns"),
    [
        ((0.5, 0.5), (0.9, 0.5), 400, True),
        ((0.5, 0.5), (0.9, 0.85), 400, False),
        ((0.9, 0.5), (0.9, 0.5), 400, False),  # apart from the beginning is no sign of PPO's
        ((0.5, 0.5), (0.7, 0.5), 20, False),  # within what twenty starts can tell
        ((0.5, None), (0.9, None), 0, False),
    ],
)
def test_a_warning_when_only_training_starts_improve(
    first: tuple, now: tuple, starts: int, warns: bool
) -> None:
    sides = (task.ImaginedSuccess(*side) for side in (first, now))
    assert (task.overfitting(*sides, starts) is not None) == warns


@pytest.mark.parametrize(
    ("gate", "auc", "first", "last", "keeps"),
    [
        ("keep", 0.95, 0.5, 0.8, False),
        ("keep", 0.95, 0.8, 0.8, True),  # nothing learned
        ("keep", 0.95, 0.8, 0.7, True),
        ("keep", 0.85, 0.5, 0.8, True),  # learned from a classifier that knows little
        ("keep", None, None, None, False),  # nothing to decide by
        ("warn", 0.85, 0.8, 0.7, False),
    ],
)
def test_the_clone_stays_where_a_dream_has_nothing_to_teach(
    gate: Literal["warn", "keep"], auc: float | None, first: float, last: float, keeps: bool
) -> None:
    config = FinetuneConfig(gate=gate, min_window_auc=0.9)
    sides = (task.ImaginedSuccess(1.0, held_out) for held_out in (first, last))
    assert (task.reason_to_keep(config, auc, *sides, 30) is not None) == keeps


@pytest.mark.parametrize(
    ("training", "keeps"),
    [(0.6, False), (0.5, True), (0.4, True), (1.0, True)],  # the last one by heart
)
def test_of_equals_from_held_out_starts_training_starts_decide(
    training: float, keeps: bool
) -> None:
    config = FinetuneConfig(gate="keep")
    before, now = task.ImaginedSuccess(0.5, 0.9), task.ImaginedSuccess(training, 0.9)
    assert (task.reason_to_keep(config, 0.95, before, now, 30) is not None) == keeps
    # What is held out comes first.
    assert task.reason_to_keep(config, 0.95, before, now._replace(held_out=0.8), 30)
    assert not task.reason_to_keep(config, 0.95, before, now._replace(held_out=1.0), 30)


def test_a_kept_clone_is_the_clone(
    profile: Profile, trained: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = trained.reward(VARIANT) / "summary.json"
    summary = manifests.read_json(rewards)
    summary[TASK]["window_auc_imagined"] = 0.6
    manifests.write_json(rewards, summary)
    remade(trained.reward(VARIANT))
    keeping = replace(profile, finetune=replace(profile.finetune, gate="keep"))
    finetune.run(keeping, trained, VARIANT)
    assert "the clone stays" in capsys.readouterr().out
    output = trained.finetune(VARIANT)
    seed = profile.finetune.seeds[0]
    kept = manifests.read_json(output / "summary.json")[TASK]["kept_clone"]
    assert "0.60" in kept[f"seed {seed}"]
    tuned = load_policy(output / TASK / f"seed-{seed}", CPU)
    assert isinstance(tuned, FinetunedPolicy)
    for name, value in tuned.base.state_dict().items():
        assert torch.equal(tuned.actor.state_dict()[name], value)


@pytest.mark.parametrize("further", ["play", "annotated"])
def test_a_gate_without_held_out_starts_says_so(
    profile: Profile,
    trained: Layout,
    further: Literal["play", "annotated"],
    capsys: pytest.CaptureFixture[str],
) -> None:
    keeping = replace(
        profile,
        extract=replace(profile.extract, further_starts=further),
        finetune=replace(profile.finetune, gate="keep"),
    )
    finetune.run(keeping, trained, VARIANT)
    told = " ".join(capsys.readouterr().out.split())
    warning = f"{TASK}: no starts are held out (those of play are no attempts)"
    assert (warning in told) == (further == "play")


def test_every_fifth_annotated_attempt_is_held_out(trained: Layout) -> None:
    features = load_features(trained.features(VARIANT), TASK)
    draws, size = features.training.posterior.shape[0], features.play_starts.shape[-1]
    further = torch.arange(12.0).view(1, 12, 1).expand(draws, 12, size)
    rows = 1000 * torch.arange(1, 13)
    features = replace(features, play_starts=further, play_start_rows=rows)
    [trained_from], held_out = finetune.imagination_starts(features, "annotated", "keep")
    demos = len(features.training.length)
    assert sorted(held_out[:, 0].unique().tolist()) == [4.0, 9.0]
    assert len(trained_from) == draws * (demos + 10)
    assert torch.equal(trained_from[:demos], features.demo_starts[0])
    # A demonstration may be longer than any window of the annotations: what it shows is not free.
    longer = replace(features.training, length=features.training.length + 60)
    rows[3] = features.training.start[-1] + 75
    [_], held_out = finetune.imagination_starts(
        replace(features, training=longer), "annotated", "keep"
    )
    assert sorted(held_out[:, 0].unique().tolist()) == [5.0, 10.0]
    rows[3] = 4000
    # Starts of one attempt stay together, and what a demonstration shows is trained from.
    rows[5], rows[0] = rows[4] + 30, features.training.start[0] + 10
    [trained_from], held_out = finetune.imagination_starts(features, "annotated", "keep")
    assert sorted(held_out[:, 0].unique().tolist()) == [6.0, 11.0]
    kinds, looked_at = finetune.imagination_starts(features, "play", "warn")
    assert [len(kind) for kind in kinds] == [draws * demos, draws * 12]
    assert len(looked_at) == draws * len(features.validation.length)
    # The evaluation starts there: nothing may be chosen by it.
    assert not len(finetune.imagination_starts(features, "play", "keep")[1])


@pytest.mark.parametrize("precision", [0.5, None])
def test_an_imprecise_reward_warns_or_stops(
    profile: Profile, trained: Layout, precision: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = trained.reward(VARIANT)
    summary = manifests.read_json(directory / "summary.json")
    summary[TASK]["precision_imagined"] = precision
    manifests.write_json(directory / "summary.json", summary)
    finetune.check_rewards(directory, profile)
    assert TASK in capsys.readouterr().out
    stopping = replace(profile, finetune=replace(profile.finetune, gate="stop"))
    with pytest.raises(WamError, match="min_imagined_precision"):
        finetune.check_rewards(directory, stopping)


def test_a_changed_world_model_invalidates_the_result(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_iteration = task.Dppo.train_iteration

    def damaging(dppo: task.Dppo, env: object, generator: torch.Generator) -> object:
        env._dynamics.rssm.cell.bias_hh[0] += 1  # type: ignore[attr-defined]
        return train_iteration(dppo, env, generator)  # type: ignore[arg-type]

    monkeypatch.setattr(task.Dppo, "train_iteration", damaging)
    with pytest.raises(WamError, match="weights changed"):
        finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    assert not output.exists()
    assert not (output.with_name(f"{VARIANT}.partial") / TASK / "seed-0").exists()


def test_imagination_imports_no_simulator() -> None:
    blocked = ("pybullet", "gymnasium", "wam.envs.pool")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); import pipeline.stages.finetune"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_imagination_does_without_the_simulator(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pybullet", "gymnasium", "wam.envs.pool"):
        monkeypatch.setitem(sys.modules, name, None)
    finetune.run(profile, trained, VARIANT)
    output = trained.finetune(VARIANT)
    assert manifests.read_json(output / manifests.MANIFEST)["environment"] == "world_model"
    assert manifests.read_json(output / "summary.json")[TASK]["environment"] == "world_model"


def test_a_missing_input_names_the_stage_that_makes_it(profile: Profile, layout: Layout) -> None:
    with pytest.raises(WamError, match="wam train-reward"):
        finetune.run(profile, layout, VARIANT)
