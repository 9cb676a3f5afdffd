"""Stage ``train-reward``: one success classifier per task, calibrated on imagined features."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.parts import Part, build_tasks
from pipeline.latents.features import SplitFeatures, TaskFeatures, load_features
from pipeline.params import Profile
from pipeline.workers import crew
from wam import device as devices
from wam.config import RewardConfig
from wam.errors import WamError
from wam.randomness import task_generator
from wam.reward.calibration import calibrate, calibrate_windows, scores, window_auc, window_rates
from wam.reward.classifier import reward_description
from wam.reward.labelled import LabelledFeatures, held_back, success_places
from wam.reward.training import train_classifier
from wam.weights import save_model

STAGE = "train-reward"


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Train a classifier per task on the features of ``variant``; finished tasks are kept."""
    device = devices.resolve(profile.device)
    source, output = layout.features(variant), layout.reward(variant)
    summary = build_tasks(
        output,
        profile.tasks,
        partial(_train, source.absolute(), profile),
        title=f"rewards {variant}",
        steps=profile.reward.epochs,
        unit="epochs",
        stage=STAGE,
        params={"reward": asdict(profile.reward)},
        inputs={"features": manifests.fingerprint(source, "featurize")},
        runners=partial(crew, profile.parallel, on_gpu=device.type == "cuda"),
    )
    config = profile.reward
    target = (
        f"reward.target_precision={config.target_precision} on imagined"
        if config.calibration == "frames"
        else f"reward.min_window_recall={config.min_window_recall} with at most "
        f"reward.max_false_alarms={config.max_false_alarms} a window on imagined"
    )
    for task, entry in summary.items():
        if not entry["target_reached"]:
            console.warn(f"{task}: no threshold reaches {target} {entry['calibrated_on']} features")
    figures = ", ".join(
        f"{task} {_percent(entry['precision_imagined'])}/{_percent(entry['recall_imagined'])}"
        for task, entry in summary.items()
    )
    console.done(STAGE, f"{variant}: imagined precision/recall {figures} → {output}")


def _train(source: Path, profile: Profile, part: Part) -> None:
    device = devices.resolve(profile.device)
    with devices.threads(1):  # small networks gain nothing; results are those of any crew
        train_task(part, load_features(source, part.name), profile.reward, device)


def train_task(
    part: Part, features: TaskFeatures, config: RewardConfig, device: torch.device
) -> None:
    """Train, calibrate and save one classifier.

    An interrupted run goes on from the state that it left.
    """
    task, records = part.name, part.journal.records()
    part.advance(len(records), task)
    training = _labelled(features.training, features.training_play)
    validation = _labelled(features.validation, features.validation_play)
    if config.calibration == "windows":
        fitted, measured = held_back(training)
        calibrated_on = "held-back training"
    else:
        fitted, measured = training, validation
        calibrated_on = "validation"
    # What never reaches success, or has it throughout, cannot tell a good threshold from a bad one.
    if not measured.label.any() or measured.label.all():
        console.warn(
            f"{task}: the {calibrated_on} windows do not show both success and none; "
            "selecting and calibrating on those that are trained on"
        )
        fitted = measured = training
        calibrated_on = "training"

    def log(record: dict[str, float]) -> None:
        records.append(record)
        part.journal.append(record)
        part.advance(1, f"{task}  imagined AUPRC {record['auprc_imagined']:.3f}")

    generator, resumed = task_generator(config.seed, task), (part.state, part.checkpoint)
    try:
        model = train_classifier(config, fitted, measured, generator, device, log, *resumed)
    except WamError as error:
        raise WamError(f"{task}: {error}") from None
    if config.reach:
        model.believe_at(success_places(fitted).to(device), config.reach)
    if config.calibration == "windows":
        limits = config.max_false_alarms, config.min_window_recall
        reached = calibrate_windows(model, measured, *limits, device)
    else:
        target = config.target_precision
        reached = calibrate(model, measured.imagined, measured.label, target, device)
    part.advance(config.epochs - len(records), task)
    save_model(part.directory, model, reward_description(config, features.size))
    best = max(records, key=lambda record: record["auprc_real"] + record["auprc_imagined"])
    play = _labelled(features.validation_play)
    missed, alarmed = window_rates(model, play.imagined, play.label, play.length, device)
    real, imagined = (
        scores(model, latents, measured.label, device)
        for latents in (measured.real, measured.imagined)
    )
    summary = {
        "precision_real": real.precision,
        "recall_real": real.recall,
        "precision_imagined": imagined.precision,
        "recall_imagined": imagined.recall,
        # What a policy meets: a classifier is asked after every decision, and one answer ends it.
        "window_auc_imagined": window_auc(model, measured, device),
        "missed_windows_imagined": missed,
        "false_alarm_windows_imagined": alarmed,
        "auprc_real": best["auprc_real"],
        "auprc_imagined": best["auprc_imagined"],
        "threshold": float(model.threshold),
        "temperature": float(model.temperature),
        "target_reached": reached,
        "calibrated_on": calibrated_on,
        "epochs": len(records),
    }
    manifests.write_json(part.directory / manifests.SUMMARY, summary)


def _labelled(*splits: SplitFeatures) -> LabelledFeatures:
    return LabelledFeatures(
        torch.cat([split.posterior for split in splits], dim=1),
        torch.cat([split.imagined for split in splits], dim=1),
        torch.cat([split.label for split in splits]),
        torch.cat([split.length for split in splits]),
        torch.cat([split.start for split in splits]),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"
