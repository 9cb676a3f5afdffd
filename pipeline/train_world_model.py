"""Stage ``train-world-model``: one variant of the world model, trained on the store's windows.

Leaves the weights, the learning curves, film strips of real, filtered and predicted frames, the
open-loop quality per horizon and a summary.
"""

import csv
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from pipeline import artifacts, console
from pipeline.film import write_film_strip
from pipeline.layout import Layout
from pipeline.params import Profile
from pipeline.training_data import open_training_data
from wam import device as devices
from wam.assessment import Predictions, assess, predict
from wam.atomic import replacing
from wam.batch import Batch
from wam.checkpoint import save_model, world_model_config
from wam.images import psnr, to_rgb
from wam.journal import Journal
from wam.nets import CAMERAS
from wam.train import CHECKPOINT_FILE, METRICS_FILE, VALIDATION_FILE, Outcome, Record, Trainer
from wam.world_model import WorldModel

STAGE = "train-world-model"
CURVE_FILE = "learning_curve.csv"
"""The records of ``metrics.jsonl`` once more, in a form that ``dvc plots`` reads."""
HEADLINE_HORIZONS = (1, 5, 10, 25, 50)
_FILM_COLUMNS = 11


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Train ``variant`` into its directory; a killed run goes on where it stopped."""
    device = devices.resolve(profile.device)
    devices.keep_freed_memory()
    training = profile.train_world_model
    config = profile.world_model
    if variant == "dreamerv2":
        config = replace(config, action_scale=0.0)
    data = open_training_data(profile, layout, device)
    params = {
        "variant": variant,
        "world_model": asdict(config),
        "train_world_model": asdict(training),
        "open_loop": [profile.evaluate.open_loop_sequences, profile.evaluate.open_loop_steps],
        "reader": profile.loader.reader,
        "device": device.type,
    }
    output = layout.world_model(variant)
    with artifacts.building(output, stage=STAGE, params=params, inputs=data.inputs) as (partial, _):
        model = WorldModel(config, seed=training.seed)
        with data.batches as batches:
            trainer = Trainer(
                model,
                batches,
                training,
                action_scale=config.action_scale,
                directory=partial,
                device=device,
                validate=lambda: assess(model, data.validation, training.seed, device),
            )
            outcome = _train(trainer, training.updates, f"world model {variant}")
        description = world_model_config(model, variant, data.normalizer, updates=outcome.updates)
        save_model(partial, model, description)
        horizons = write_predictions(partial, model, data.validation, training.seed, device)
        _write_curve(partial / CURVE_FILE, Journal(partial / METRICS_FILE).records())
        summary = summarize(outcome, Journal(partial / VALIDATION_FILE).records()[-1], horizons)
        artifacts.write_json(partial / "summary.json", summary)
        (partial / CHECKPOINT_FILE).unlink()
    console.done(
        STAGE,
        f"{variant}: {outcome.updates:,} updates at {outcome.frames_per_s:.0f} frames/s; "
        f"PSNR {summary['posterior_psnr']:.1f} dB filtered, "
        f"{summary['open_loop_psnr']:.1f} dB open loop → {output}",
    )


def write_predictions(
    directory: Path, model: WorldModel, windows: Batch, seed: int, device: torch.device
) -> list[Record]:
    """Write film strips and ``open_loop.json``: PSNR (dB) and SSIM per camera and horizon."""
    sums: dict[str, np.ndarray] = {}
    model.eval()
    for number, part in enumerate(predict(model, windows, seed, device)):
        if number == 0:
            _write_film_strips(directory, part)
        for name, values in _quality(part).items():
            sums[name] = sums.get(name, 0.0) + values.sum(1).cpu().numpy()
    rows = windows.proprio.shape[1]
    horizons = [
        {
            "horizon": t + 1,
            **{name: round(float(total[t]) / rows, 4) for name, total in sums.items()},
        }
        for t in range(len(windows.proprio) - 1)
    ]
    artifacts.write_json(directory / "open_loop.json", horizons)
    return horizons


def summarize(outcome: Outcome, figures: Record, horizons: list[Record]) -> dict[str, Any]:
    """The figures a person compares runs by; PSNR without a camera's name is the cameras' mean."""
    summary: dict[str, Any] = {**outcome._asdict(), **figures}
    summary.pop("step")
    for horizon in HEADLINE_HORIZONS:
        if horizon <= len(horizons):
            values = [horizons[horizon - 1][f"psnr_{camera}"] for camera in CAMERAS]
            summary[f"open_loop_psnr_{horizon}"] = sum(values) / len(values)
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in summary.items()
    }


def _train(trainer: Trainer, updates: int, description: str) -> Outcome:
    with console.progress(description, updates, "updates", done=trainer.step) as advance:

        def on_step(step: int, record: Record | None) -> None:
            advance(1, _note(record) if record else "")

        return trainer.run(on_step)


def _note(record: Record) -> str:
    """The loss terms of a record, for the progress bar."""
    parts = [
        ("image", "image_loss", ".0f"),
        ("KL", "kl", ".1f"),
        ("action", "action_loss", ".3f"),
        ("PSNR", "psnr_static", ".1f"),
        ("frames/s", "frames_per_s", ".0f"),
    ]
    return "  ".join(f"{label} {record[key]:{form}}" for label, key, form in parts if key in record)


def _quality(part: Predictions) -> dict[str, torch.Tensor]:
    """PSNR and SSIM [T-1, B] of the open-loop frames of each camera."""
    quality = {}
    for camera in CAMERAS:
        real = part.real[camera][1:]
        predicted = part.open_loop[camera][1:].clamp(-1.0, 1.0)
        quality[f"psnr_{camera}"] = psnr(predicted, real)
        similarity = structural_similarity_index_measure(
            (predicted.flatten(0, 1) + 1) / 2,
            (real.flatten(0, 1) + 1) / 2,
            data_range=1.0,
            reduction="none",
        )
        assert isinstance(similarity, torch.Tensor)
        quality[f"ssim_{camera}"] = similarity.unflatten(0, real.shape[:2])
    return quality


def _write_film_strips(directory: Path, part: Predictions) -> None:
    """``film_static.png`` and ``film_gripper.png`` of the first window."""
    steps = np.unique(np.linspace(0, len(part.kl) - 1, _FILM_COLUMNS).round().astype(int))
    headings = ["given"] + [f"+{step}" for step in steps[1:]]
    for camera in CAMERAS:
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
