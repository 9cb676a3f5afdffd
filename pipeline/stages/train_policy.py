"""Stage ``train-policy``: one diffusion policy per task, cloned from the demonstrations."""

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
from wam.config import PolicyConfig
from wam.errors import WamError
from wam.policy.cloning import ChunkDataset, chunk_dataset, clone
from wam.policy.policy import DiffusionPolicy, policy_description
from wam.randomness import task_generator
from wam.weights import save_model

STAGE = "train-policy"


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Clone the profile's tasks on the features of ``variant``; finished tasks are kept."""
    device = devices.resolve(profile.device)
    source, output = layout.features(variant), layout.policy(variant)
    summary = build_tasks(
        output,
        profile.tasks,
        partial(_train, source.absolute(), profile),
        title=f"policies {variant}",
        steps=profile.policy.updates,
        unit="updates",
        stage=STAGE,
        params={"policy": asdict(profile.policy)},
        inputs={"features": manifests.fingerprint(source, "featurize")},
        free=["policy.log_every"],
        runners=partial(crew, profile.parallel, on_gpu=device.type == "cuda"),
    )
    losses = ", ".join(f"{task} {entry['train_loss']:.3f}" for task, entry in summary.items())
    console.done(STAGE, f"{variant}: noise loss {losses} → {output}")


def _train(source: Path, profile: Profile, part: Part) -> None:
    device = devices.resolve(profile.device)
    with devices.threads(1):  # small networks gain nothing; results are those of any crew
        train_task(part, load_features(source, part.name), profile.policy, device)


def train_task(
    part: Part, features: TaskFeatures, config: PolicyConfig, device: torch.device
) -> None:
    """Train and save one policy, from the state that an interrupted run left, if any."""
    task, records = part.name, part.journal.records()
    part.advance(int(records[-1]["step"]) if records else 0, task)
    training, validation = _chunk_dataset(features.training), _chunk_dataset(features.validation)

    def log(record: dict[str, float]) -> None:
        done = int(record["step"] - (records[-1]["step"] if records else 0))
        records.append(record)
        part.journal.append(record)
        part.advance(done, f"{task}  loss {record['train_loss']:.4f}")

    generator, resumed = task_generator(config.seed, task), (part.state, part.checkpoint)
    try:
        network = clone(config, training, validation, generator, device, log, *resumed)
    except WamError as error:
        raise WamError(f"{task}: {error}") from None
    description = policy_description(config, features.size)
    save_model(part.directory, DiffusionPolicy(network), description)
    last = records[-1]
    summary = {
        "train_loss": last["train_loss"],
        "validation_loss": last.get("validation_loss"),
        "windows": len(training.rows),
        "validation_windows": len(validation.rows),
    }
    manifests.write_json(part.directory / manifests.SUMMARY, summary)


def _chunk_dataset(split: SplitFeatures) -> ChunkDataset:
    copies = split.posterior
    if split.glimpsed is not None:
        copies = torch.cat([copies, split.glimpsed])
    return chunk_dataset(copies, split.context, split.action, split.length)
