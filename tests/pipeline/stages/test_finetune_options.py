"""The curriculum of starts and the cost of disagreement."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build
from pipeline.artifacts.layout import Layout
from pipeline.finetuning import ensemble, task
from pipeline.latents.features import load_features
from pipeline.params import Profile
from pipeline.stages import finetune
from tests.pipeline.small_run import CONFIG, CPU, TASK, VARIANT
from wam.errors import WamError
from wam.ppo.disagreement import MAX_EXCESS, load_ensemble, mean_disagreement, transitions


def test_the_curriculum_moves_the_starts_in_demonstrations_back(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = []
    start_from = task.LatentEnv.start_from

    def watching(env: task.LatentEnv, starts: list[torch.Tensor]) -> None:
        placed.append([len(kind) for kind in starts])
        assert not starts[0][:, 0].any()  # the label: no success is a start
        start_from(env, starts)

    monkeypatch.setattr(task.LatentEnv, "start_from", watching)
    settings = replace(profile.finetune, start_curriculum=0.5)
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    # Two draws of six demonstrations, with 15 frames before the success; two draws of five frames
    # of play. The first entry is the environment before any training.
    assert placed == [[12, 10], [12 * 3, 10], [12 * 9, 10], [12, 10], [12, 10]]
    path = trained.finetune(VARIANT) / TASK / "seed-0" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["start_position"] for record in records] == [0.8, 0.4, None, None]


def test_a_curriculum_without_a_way_to_success_names_the_task(
    profile: Profile, trained: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = load_features(trained.features(VARIANT), TASK)
    never = replace(features.training, label=torch.zeros(120, dtype=torch.bool))
    monkeypatch.setattr(finetune, "load_features", lambda *_: replace(features, training=never))
    settings = replace(profile.finetune, start_curriculum=0.5)
    with pytest.raises(WamError, match=rf"{TASK}: finetune\.start_curriculum"):
        finetune.run(replace(profile, finetune=settings), trained, VARIANT)


def test_an_ensemble_is_trained_once_and_always_the_same(
    profile: Profile, trained: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Build(tmp_path)

    def fit() -> bytes:
        source = trained.features(VARIANT)
        ensemble.fit_ensemble(target, "ensemble", source, profile, CONFIG, CPU)
        return (tmp_path / "ensemble" / "model.safetensors").read_bytes()

    first = fit()
    (tmp_path / "ensemble" / manifests.SUMMARY).unlink()  # as if killed at the very end
    assert fit() == first
    monkeypatch.delattr(ensemble, "train_ensemble")
    assert fit() == first


def test_disagreement_costs_reward_and_stays_with_the_run(
    profile: Profile, trained: Layout
) -> None:
    settings = replace(profile.finetune, disagreement_scale=0.5, disagreement_heads=3, seeds=(0, 1))
    finetune.run(replace(profile, finetune=settings), trained, VARIANT)
    output = trained.finetune(VARIANT)
    trained_ensemble = load_ensemble(output / finetune.ENSEMBLE, CPU)
    features = load_features(trained.features(VARIANT), TASK).training
    data = transitions(
        features.posterior, features.action, features.length, CONFIG.stoch, CONFIG.classes
    )
    assert trained_ensemble.sizes == (CONFIG.feature, CONFIG.stoch, CONFIG.classes, 3)
    assert mean_disagreement(trained_ensemble, data) == pytest.approx(1, rel=1e-4)
    figures = manifests.read_json(output / finetune.ENSEMBLE / "summary.json")
    assert figures["transitions"] == 2 * 6 * 19
    assert figures["disagreement_validation"] > 0 and figures["disagreement_imagined"] > 0
    for seed in (0, 1):
        path = output / TASK / f"seed-{seed}" / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(0 < record["penalty"] <= 0.5 * MAX_EXCESS for record in records)
    assert manifests.read_json(output / "summary.json")[TASK]["penalty"] > 0


def test_without_options_the_records_say_nothing_of_them(profile: Profile, trained: Layout) -> None:
    finetune.run(profile, trained, VARIANT)
    path = trained.finetune(VARIANT) / TASK / "seed-0" / "metrics.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    assert not set(record) & {"start_position", "penalty"}
    assert not (trained.finetune(VARIANT) / finetune.ENSEMBLE).exists()
