"""What a training of classifiers and policies leaves, and how an interrupted one goes on."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.finetuning import task
from pipeline.latents.features import load_features
from pipeline.params import Profile
from pipeline.stages import finetune, train_policy, train_reward
from tests.pipeline.artifact import content
from tests.pipeline.small_run import CPU, TASK, VARIANT
from wam.policy import cloning
from wam.policy.policy import DiffusionPolicy, load_policy
from wam.reliability.interruption import Interrupted
from wam.reward import training
from wam.reward.classifier import load_reward


def test_training_stages_leave_loadable_models_and_figures(trained: Layout) -> None:
    classifier = load_reward(trained.reward(VARIANT) / TASK, CPU)
    features = load_features(trained.features(VARIANT), TASK)
    assert classifier.success(features.validation.imagined).shape == (2, 60)
    figures = manifests.read_json(trained.reward(VARIANT) / "summary.json")[TASK]
    assert figures["precision_imagined"] >= 0.95
    assert figures["target_reached"]
    assert figures["missed_windows_imagined"] == 0
    assert figures["false_alarm_windows_imagined"] is None  # every made-up window succeeds
    policy = load_policy(trained.policy(VARIANT) / TASK, CPU)
    assert isinstance(policy, DiffusionPolicy)
    figures = manifests.read_json(trained.policy(VARIANT) / "summary.json")[TASK]
    assert figures["windows"] == 6 * 17
    lines = (trained.policy(VARIANT) / TASK / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20]


def test_thresholds_by_windows_do_not_look_at_the_validation_split(
    profile: Profile, trained: Layout, tmp_path: Path
) -> None:
    own = Layout(Path(shutil.copytree(trained.root, tmp_path / "own")))
    shutil.rmtree(own.reward(VARIANT))
    reward = replace(profile.reward, calibration="windows")
    train_reward.run(replace(profile, reward=reward), own, VARIANT)
    figures = manifests.read_json(own.reward(VARIANT) / "summary.json")[TASK]
    assert figures["calibrated_on"] == "held-back training"


@pytest.mark.parametrize(
    ("stage", "place", "step", "steps", "stopped_at"),
    [
        (train_reward, "reward", (training, "_epoch"), 6, 2),
        (train_policy, "policy", (cloning, "learning_rate"), 20, 7),
        (finetune, "finetune", (task.Dppo, "train_iteration"), 4, 3),
    ],
)
def test_a_stage_that_is_asked_to_end_saves_its_last_step_and_goes_on_from_there(
    profile: Profile,
    trained: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Any,
    place: str,
    step: tuple[Any, str],
    steps: int,
    stopped_at: int,
) -> None:
    profile = replace(profile, finetune=replace(profile.finetune, seeds=(0,), checkpoint_every=100))
    whole = Layout(Path(shutil.copytree(trained.root, tmp_path / "whole")))
    own = Layout(Path(shutil.copytree(trained.root, tmp_path / "stopped")))
    for layout in (whole, own):
        shutil.rmtree(getattr(layout, place)(VARIANT), ignore_errors=True)
    stage.run(profile, whole, VARIANT)
    take_step = getattr(*step)
    taken = 0

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    monkeypatch.setattr(*step, counted)
    with pytest.raises(Interrupted) as stopped:
        stage.run(profile, own, VARIANT)
    assert stopped.value.signum == signal.SIGTERM
    assert taken == stopped_at
    stage.run(profile, own, VARIANT)
    assert taken == steps, "no step is taken twice"
    outputs = [getattr(layout, place)(VARIANT) for layout in (whole, own)]
    assert content(outputs[1]) == content(outputs[0])
