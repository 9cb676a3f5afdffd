"""Stage ``train-world-model``: one variant of the world model, trained on the store's windows.

Leaves the weights, the learning curves, film strips of real, filtered and predicted frames and a
summary.
"""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build, partial_directory
from pipeline.artifacts.layout import Layout
from pipeline.batches.embedded import embed_play, read_arm_motion
from pipeline.batches.open import TrainingData, open_play, open_training_data
from pipeline.params import Profile
from pipeline.pictures.strip import write_film_strip
from pipeline.tracking import Tracker
from wam import device as devices
from wam import distributed
from wam.config import CAMERA_NAMES, Refinement, WorldModelConfig, WorldModelTraining
from wam.distributed import Ranks
from wam.images import to_rgb
from wam.reliability.atomic import replacing
from wam.training.checkpoint import StateFile
from wam.training.diagnosis import diagnose
from wam.training.journal import Journal
from wam.training.precision import choose
from wam.training.refinement import EmbeddedPlay, Refiner
from wam.training.trainer import (
    CHECKPOINTS,
    METRICS_FILE,
    VALIDATION_FILE,
    Record,
    Trainer,
    TrainingOutcome,
)
from wam.weights import save_model
from wam.world_model.assessment import Predictions, assess, predict
from wam.world_model.load import world_model_config
from wam.world_model.model import WorldModel

STAGE = "train-world-model"
CURVE_FILE = "learning_curve.csv"
"""The records of ``metrics.jsonl`` once more, in a form that ``dvc plots`` reads."""
SPEED_FILE = "speed.json"
"""In the log: what depends on the machine."""
REFINEMENT_FILE = "refinement.jsonl"
"""The records of the second stage: its weighted losses."""
_FILM_COLUMNS = 11


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Train ``variant`` into its directory; a killed run goes on where it stopped.

    Under ``torchrun`` every process trains on its share of the batch rows, and the first one writes
    the files.
    """
    device = devices.resolve(profile.device)
    devices.keep_freed_memory()
    threads = devices.threads(profile.train_world_model.threads)
    with threads, distributed.joined() as ranks:
        _run(profile, layout, variant, device, ranks)


def _run(
    profile: Profile, layout: Layout, variant: str, device: torch.device, ranks: Ranks
) -> None:
    training, held_out = profile.train_world_model, profile.evaluate_world_model
    config = profile.world_model
    if variant == "dreamerv2":
        config = replace(config, action_scale=0.0)
    data = open_training_data(profile, layout, device, ranks)
    output = layout.world_model(variant)

    def train(target: Build) -> None:
        with data.batches:
            _train_into(target, profile, layout, config, variant, data, device, ranks)

    if ranks.rank > 0:
        if distributed.agreed():
            train(Build(partial_directory(output)))
        return
    begun = False

    def make(target: Build) -> None:
        nonlocal begun
        begun = distributed.agreed(True)
        train(target)

    params = {
        "variant": variant,
        "world_model": asdict(config),
        "train_world_model": {
            **asdict(training),
            "precision": choose(training.precision, device).name,
        },
        "refine_world_model": asdict(profile.refine_world_model),
        "validation": [held_out.open_loop_sequences, held_out.open_loop_steps],
        "reader": profile.loader.reader,
        "device": device.type,
    }
    free, growing = (
        [f"train_world_model.{name}" for name in names] for names in _changeable(training)
    )
    free.append("refine_world_model.log_every")
    build(output, make, stage=STAGE, params=params, inputs=data.inputs, free=free, growing=growing)
    if not begun:
        distributed.agreed(False)
    summary = manifests.read_json(output / manifests.SUMMARY)
    console.done(
        STAGE,
        f"{variant}: {summary['updates']:,} updates; "
        f"PSNR {summary['posterior_psnr']:.1f} dB filtered, "
        f"{summary['open_loop_psnr']:.1f} dB open loop → {output}",
    )


def _changeable(training: WorldModelTraining) -> tuple[list[str], list[str]]:
    """Settings that shape no weights, and those that tell how long the training is.

    With a falling learning rate its length shapes every update.
    """
    free = ["log_every", "checkpoint_every", "keep_checkpoints"]
    if training.weights == "last":
        free.append("validate_every")
    return free, [] if training.lr_final is not None else ["updates", "frames", "minutes"]


def _train_into(
    target: Build,
    profile: Profile,
    layout: Layout,
    config: WorldModelConfig,
    variant: str,
    data: TrainingData,
    device: torch.device,
    ranks: Ranks,
) -> None:
    """Train one rank's part; the first one leaves all files."""
    directory, training = target.directory, profile.train_world_model
    model = WorldModel(config, seed=training.seed)
    if model.rssm.proprio is not None:
        store = open_play(profile, layout)
        model.rssm.proprio.calibrate(store.proprio_normalizer(), read_arm_motion(store))

    def film(part: Predictions) -> None:
        if ranks.rank == 0:
            _write_film_strips(directory, part)

    trainer = Trainer(
        model,
        data.batches,
        training,
        action_scale=config.action_scale,
        directory=directory,
        checkpoints=target.work / CHECKPOINTS,
        device=device,
        validate=lambda: assess(model, data.validation, training.seed, device, film),
        ranks=ranks,
    )
    if ranks.rank > 0:
        trainer.run()
        return
    log = layout.log(variant)
    outcome = _train(trainer, directory, log, f"world model {variant}")
    updates = trainer.use_best() if training.weights == "best" else outcome.updates
    validations = Journal(directory / VALIDATION_FILE).records()
    figures = next(record for record in validations if record["step"] == updates)
    refinement = profile.refine_world_model
    if refinement.updates:
        play = embed_play(model, open_play(profile, layout), device)
        _refine(target, model, refinement, play, device, f"refine {variant}")
        figures = assess(model, data.validation, training.seed, device, film)
    elif updates != outcome.updates:
        film(next(predict(model, data.validation, training.seed, device)))
    save_model(
        directory, model, world_model_config(model, variant, data.normalizer, updates=updates)
    )
    _write_curve(directory / CURVE_FILE, Journal(directory / METRICS_FILE).records())
    # What a person compares runs by; PSNR without a camera's name is the cameras' mean.
    summary = {**outcome._asdict(), **figures}
    summary.pop("step", None)
    manifests.write_json(
        directory / manifests.SUMMARY,
        {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in summary.items()
        },
    )


def _train(trainer: Trainer, directory: Path, log: Path, description: str) -> TrainingOutcome:
    log.mkdir(parents=True, exist_ok=True)
    with (
        console.progress(description, trainer.updates, "updates", done=trainer.step) as advance,
        Tracker(directory, log) as tracker,
    ):
        said: set[str] = set()

        def on_step(step: int, record: Record | None) -> None:
            advance(1, _note(record, trainer.frames_per_s) if record else "")
            if step == first:
                console.note(f"networks compute in {trainer.precision.name}")
            if record:
                tracker.catch_up()
                for warning in diagnose(record, tracker.validation):
                    if warning.signature not in said:
                        said.add(warning.signature)
                        console.warn(f"update {step}: {warning}")

        first = trainer.step + 1
        outcome = trainer.run(on_step)
    speed = {"frames_per_s": trainer.frames_per_s, "seconds": trainer.seconds}
    rounded = {name: round(value, 1) for name, value in speed.items()}
    manifests.write_json(log / SPEED_FILE, {**rounded, "precision": trainer.precision.name})
    return outcome


def _refine(
    target: Build,
    model: WorldModel,
    config: Refinement,
    play: EmbeddedPlay,
    device: torch.device,
    description: str,
) -> None:
    """The second stage, with its own records and checkpoint."""
    refiner = Refiner(model, play, config, device)
    journal = Journal(target.directory / REFINEMENT_FILE)
    checkpoint = StateFile(target.work / "refinement.safetensors", journal)
    names = {"kl_loss": "KL", "seed_match_loss": "seed", "target_loss": "target"}
    with console.progress(description, config.updates, "updates") as advance:
        shown = 0

        def log(record: Record) -> None:
            nonlocal shown
            journal.append(record)
            note = "  ".join(f"{label} {record[key]:.1f}" for key, label in names.items())
            advance(int(record["step"]) - shown, note)
            shown = int(record["step"])

        refiner.run(log, checkpoint)


def _note(record: Record, frames_per_s: float) -> str:
    """The loss terms of a record and the speed, for the progress bar."""
    parts = [
        ("image", "image_loss", ".0f"),
        ("KL", "kl", ".1f"),
        ("action", "action_loss", ".3f"),
        ("PSNR", "psnr_static", ".1f"),
    ]
    said = [f"{label} {record[key]:{form}}" for label, key, form in parts if key in record]
    return "  ".join([*said, f"frames/s {frames_per_s:.0f}"])


def _write_film_strips(directory: Path, part: Predictions) -> None:
    """``film_static.png`` and ``film_gripper.png`` of the first window."""
    steps = np.unique(np.linspace(0, len(part.kl) - 1, _FILM_COLUMNS).round().astype(int))
    headings = ["given"] + [f"+{step}" for step in steps[1:]]
    for camera in CAMERA_NAMES:
        rows = {
            name: to_rgb(images[camera][steps, 0]).cpu().numpy()
            for name, images in (
                ("real", part.real),
                ("posterior", part.posterior),
                ("open loop", part.open_loop),
            )
        }
        write_film_strip(directory / f"film_{camera}.png", rows, headings)


def _write_curve(path: Path, records: list[Record]) -> None:
    names = dict.fromkeys(name for record in records for name in record)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        writer.writerows(records)
