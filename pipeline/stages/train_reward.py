"""Stage ``train-reward``: one success classifier per task, calibrated on imagined features."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.latents.features import SplitFeatures, TaskFeatures, load_features
from pipeline.params import Profile
from wam import device as devices
from wam.config import RewardConfig
from wam.errors import WamError
from wam.randomness import task_generator
from wam.reward.classifier import SuccessClassifier, reward_description
from wam.reward.training import LabelledFeatures, calibrate, scores, train_classifier, window_rates
from wam.training.checkpoint import StateFile
from wam.training.journal import Journal
from wam.weights import save_model

STAGE = "train-reward"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Train a classifier per task on the features of ``variant``; finished tasks are kept."""
    device = devices.resolve(profile.device)
    source = layout.features(variant)
    inputs = {"features": manifests.fingerprint(source, "featurize")}
    params = {"reward": asdict(profile.reward), "tasks": list(profile.tasks)}
    output = layout.reward(variant)

    def make(target: Build) -> None:
        total = len(profile.tasks) * profile.reward.epochs
        with console.progress(f"rewards {variant}", total, "epochs") as advance:
            for task in profile.tasks:
                directory, work = target.directory / task, target.work / task
                if target.is_finished(task):
                    advance(profile.reward.epochs, task)
                    continue
                features = load_features(source, task)
                train_task(directory, work, task, features, profile.reward, device, advance)
                target.finish(task, directory.iterdir())
        manifests.merge_summaries(target.directory, profile.tasks)

    build(output, make, stage=STAGE, params=params, inputs=inputs, growing=["tasks"])
    summary = manifests.read_json(output / manifests.SUMMARY)
    for task, entry in summary.items():
        if not entry["target_reached"]:
            console.warn(
                f"{task}: no threshold reaches reward.target_precision="
                f"{profile.reward.target_precision} on imagined {entry['calibrated_on']} features"
            )
    figures = ", ".join(
        f"{task} {_percent(entry['precision_imagined'])}/{_percent(entry['recall_imagined'])}"
        for task, entry in summary.items()
    )
    console.done(STAGE, f"{variant}: imagined precision/recall {figures} → {output}")


def train_task(
    directory: Path,
    work: Path,
    task: str,
    features: TaskFeatures,
    config: RewardConfig,
    device: torch.device,
    advance: Callable[..., None],
) -> None:
    """Train, calibrate and save one classifier.

    An interrupted run goes on from the state that it left in ``work``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory / METRICS_FILE)
    checkpoint = StateFile(work / CHECKPOINT_FILE, journal)
    state = checkpoint.load()
    records = journal.records()
    advance(len(records), task)
    training = _labelled(features.training, features.training_play)
    validation = _labelled(features.validation, features.validation_play)
    # Held-out demonstrations that never reach success cannot tell a good threshold from a bad one.
    held_out = bool(validation.label.any() and not validation.label.all())
    measured = validation if held_out else training
    if not held_out:
        console.warn(
            f"{task}: the validation demonstrations show no success; "
            "selecting and calibrating on the training ones"
        )

    def log(record: dict[str, float]) -> None:
        records.append(record)
        journal.append(record)
        advance(1, f"{task}  imagined AUPRC {record['auprc_imagined']:.3f}")

    generator = task_generator(config.seed, task)
    data = (training, measured)
    try:
        model = train_classifier(config, *data, generator, device, log, state, checkpoint)
    except WamError as error:
        raise WamError(f"{task}: {error}") from None
    reached = calibrate(model, measured.imagined, measured.label, config.target_precision, device)
    advance(config.epochs - len(records), task)
    save_model(directory, model, reward_description(config, features.size))
    best = max(records, key=lambda record: record["auprc_real"] + record["auprc_imagined"])
    play = _labelled(features.validation_play)
    missed, alarmed = window_rates(model, play.imagined, play.label, play.length, device)
    summary = {
        **_figures(model, measured, device),
        # What a policy meets: a classifier is asked after every decision, and one answer ends it.
        "missed_windows_imagined": missed,
        "false_alarm_windows_imagined": alarmed,
        "auprc_real": best["auprc_real"],
        "auprc_imagined": best["auprc_imagined"],
        "threshold": float(model.threshold),
        "temperature": float(model.temperature),
        "target_reached": reached,
        "calibrated_on": "validation" if held_out else "training",
        "epochs": len(records),
    }
    manifests.write_json(directory / manifests.SUMMARY, summary)


def _figures(
    model: SuccessClassifier, data: LabelledFeatures, device: torch.device
) -> dict[str, Any]:
    real = scores(model, data.real, data.label, device)
    imagined = scores(model, data.imagined, data.label, device)
    return {
        "precision_real": real.precision,
        "recall_real": real.recall,
        "precision_imagined": imagined.precision,
        "recall_imagined": imagined.recall,
    }


def _labelled(*splits: SplitFeatures) -> LabelledFeatures:
    return LabelledFeatures(
        torch.cat([split.posterior for split in splits], dim=1),
        torch.cat([split.imagined for split in splits], dim=1),
        torch.cat([split.label for split in splits]),
        torch.cat([split.length for split in splits]),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"
