"""Stage ``train-policy``: one diffusion policy per task, cloned from the demonstrations."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.latents.features import SplitFeatures, TaskFeatures, load_features
from pipeline.params import Profile
from wam import device as devices
from wam.config import PolicyConfig
from wam.errors import WamError
from wam.policy.cloning import ChunkDataset, chunk_dataset, clone
from wam.policy.policy import DiffusionPolicy, policy_description
from wam.randomness import task_generator
from wam.training.checkpoint import StateFile
from wam.training.journal import Journal
from wam.weights import save_model

STAGE = "train-policy"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Clone the profile's tasks on the features of ``variant``; finished tasks are kept."""
    device = devices.resolve(profile.device)
    source = layout.features(variant)
    inputs = {"features": manifests.fingerprint(source, "featurize")}
    params = {"policy": asdict(profile.policy), "tasks": list(profile.tasks)}
    output = layout.policy(variant)

    def make(target: Build) -> None:
        total = len(profile.tasks) * profile.policy.updates
        with console.progress(f"policies {variant}", total, "updates") as advance:
            for task in profile.tasks:
                directory, work = target.directory / task, target.work / task
                if target.is_finished(task):
                    advance(profile.policy.updates, task)
                    continue
                features = load_features(source, task)
                train_task(directory, work, task, features, profile.policy, device, advance)
                target.finish(task, directory.iterdir())
        manifests.merge_summaries(target.directory, profile.tasks)

    build(
        output,
        make,
        stage=STAGE,
        params=params,
        inputs=inputs,
        free=["policy.log_every"],
        growing=["tasks"],
    )
    summary = manifests.read_json(output / manifests.SUMMARY)
    losses = ", ".join(f"{task} {entry['train_loss']:.3f}" for task, entry in summary.items())
    console.done(STAGE, f"{variant}: noise loss {losses} → {output}")


def train_task(
    directory: Path,
    work: Path,
    task: str,
    features: TaskFeatures,
    config: PolicyConfig,
    device: torch.device,
    advance: Callable[..., None],
) -> None:
    """Train and save one policy, from the state that an interrupted run left in ``work``."""
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory / METRICS_FILE)
    checkpoint = StateFile(work / CHECKPOINT_FILE, journal)
    state = checkpoint.load()
    records = journal.records()
    advance(int(records[-1]["step"]) if records else 0, task)
    training, validation = _chunk_dataset(features.training), _chunk_dataset(features.validation)

    def log(record: dict[str, float]) -> None:
        done = int(record["step"] - (records[-1]["step"] if records else 0))
        records.append(record)
        journal.append(record)
        advance(done, f"{task}  loss {record['train_loss']:.4f}")

    generator = task_generator(config.seed, task)
    try:
        network = clone(config, training, validation, generator, device, log, state, checkpoint)
    except WamError as error:
        raise WamError(f"{task}: {error}") from None
    save_model(directory, DiffusionPolicy(network), policy_description(config, features.size))
    last = records[-1]
    summary = {
        "train_loss": last["train_loss"],
        "validation_loss": last.get("validation_loss"),
        "windows": len(training.rows),
        "validation_windows": len(validation.rows),
    }
    manifests.write_json(directory / manifests.SUMMARY, summary)


def _chunk_dataset(split: SplitFeatures) -> ChunkDataset:
    return chunk_dataset(split.posterior, split.context, split.action, split.length)
