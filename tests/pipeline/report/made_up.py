"""A run whose artifacts are made up but shaped like the stages' own."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile
from pipeline.pictures import clips
from pipeline.pictures.strip import write_film_strip
from pipeline.stages.evaluate import EvaluationJob, summarise
from tests.pipeline.artifact import artifact
from wam.config import VARIANTS
from wam.tasks import FIXTURES

RATES = {
    (None, "expert"): 1.0,
    (None, "zero"): 0.02,
    ("wam", "bc"): 0.62,
    ("wam", "ppo"): 0.86,
    ("dreamerv2", "bc"): 0.48,
    ("dreamerv2", "ppo"): 0.7,
}


def make_run(profile: Profile, layout: Layout, starts: int = 29) -> None:
    """Everything after ``extract`` that the report reads."""
    rng = np.random.default_rng(0)
    for name in ("controls", *VARIANTS):
        with artifact(layout.evaluation(name), renderer="tiny") as directory:
            make_evaluation(directory, name, profile, starts, rng)
    with artifact(layout.world_model_evaluation) as directory:
        _world_model_evaluation(directory)
    for variant in VARIANTS:
        with artifact(layout.world_model(variant), params={"device": "cpu"}) as directory:
            _world_model(directory, variant, rng)
        for place in (layout.policy, layout.reward, layout.finetune):
            with artifact(place(variant)) as directory:
                for task in profile.tasks:
                    _task(directory / task, place.__name__, profile, rng)


def make_evaluation(
    directory: Path, name: str, profile: Profile, starts: int, rng: np.random.Generator
) -> None:
    rollouts, summary = [], []
    for (variant, stage), rate in RATES.items():
        if (variant or "controls") != name:
            continue
        for task in profile.tasks:
            seeds = profile.finetune.seeds if stage == "ppo" else (0,)
            for seed in seeds:
                job = EvaluationJob(variant, task, stage, seed)
                outcomes = rng.random(starts) < rate
                rows = [
                    {**job._asdict(), "frame_id": frame, "success": bool(success), "steps": 40}
                    for frame, success in enumerate(outcomes)
                ]
                if variant:
                    for row in rows:
                        for view in ("recognised", "imagined", "executed"):
                            row[view] = bool(row["success"] ^ (rng.random() < 0.1))
                        row["replayed"] = rng.binomial(16, 0.8 if row["success"] else 0.3) / 16
                        row["replayed_score"] = row["replayed"]
                rollouts += rows
                summary.append(summarise(job, rows))
            if stage != "zero":
                static = pictures(8)
                path = directory / f"{task}-{stage}.webp"
                clips.write_clip(path, static, static[:, ::-1], f"{task} {stage}", True)
                if stage == "bc":
                    failure = path.with_stem(f"{path.stem}-failure")
                    clips.write_clip(failure, static[::-1], static, f"{task} {stage}", False)
    write(directory / "rollouts.json", rollouts)
    write(directory / "summary.json", summary)


def _world_model(directory: Path, variant: str, rng: np.random.Generator) -> None:
    steps = np.arange(10, 301, 10)
    journal = [
        {
            "step": int(step),
            "image_loss": 900 * np.exp(-step / 80) + 60 + rng.normal(0, 4),
            "kl": 6 * (1 - np.exp(-step / 60)) + rng.normal(0, 0.2),
            "psnr_static": 26 - 12 * np.exp(-step / 70),
            **({"action_loss": 0.6 * np.exp(-step / 100) + 0.1} if variant == "wam" else {}),
        }
        for step in steps
    ]
    write_records(directory / "metrics.jsonl", journal)
    figures = {"posterior_psnr": 25.4, "open_loop_psnr": 22.3, "kl": 5.9, "updates": 300}
    figures |= {"frames": 153_600}
    if variant == "wam":
        figures |= {"id_mae": 0.113, "gripper_accuracy": 0.97}
    write(directory / "summary.json", figures)
    for camera in ("static", "gripper"):
        images = pictures(11)
        rows = {"real": images, "posterior": images, "open loop": images}
        headings = ["given", *(f"+{t}" for t in range(2, 22, 2))]
        write_film_strip(directory / f"film_{camera}.png", rows, headings)


def _world_model_evaluation(directory: Path) -> None:
    curve = [
        {
            "horizon": t,
            "psnr_static": 25 - 0.1 * t,
            "psnr_gripper": 22 - 0.12 * t,
            "ssim_static": 0.9 - 0.002 * t,
            "ssim_gripper": 0.8 - 0.004 * t,
        }
        for t in range(1, 21)
    ]
    write(directory / "open_loop.json", {variant: curve for variant in VARIANTS})
    quality = [
        {
            "measure": measure,
            "camera": camera,
            "horizon": horizon,
            "wam": {"mean": 22.1, "std": 2.2},
            "dreamerv2": {"mean": 21.7, "std": 2.3},
            "difference": {"value": 0.4, "low": 0.1, "high": 0.7},
        }
        for measure in ("psnr", "ssim", "posterior_psnr")
        for camera in ("static", "gripper", "both")
        for horizon in ((None,) if measure == "posterior_psnr" else (None, 1, 5, 10))
    ]
    scores = {"r2": [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], "r2_mean": 0.5, "gripper_accuracy": 0.97}
    scores |= {"gripper_balanced_accuracy": 0.96, "gripper_majority": 0.61, "mae": [0.1] * 6}
    result = {
        "sequences": 20,
        "steps": 20,
        "quality": quality,
        "perceptual": {
            "lpips": {"computed": True},
            "st_lpips": {"computed": True},
            "fvd": {"computed": True, **{v: {"both": 11.5} for v in VARIANTS}},
        },
        "probe_pairs": 2000,
        "probe": {name: {"linear": scores, "mlp": scores} for name in ("untrained", *VARIANTS)},
        "action_faithfulness": {variant: scores for variant in VARIANTS},
        "action_response": {variant: {"own": 0.97, "others": 0.63} for variant in VARIANTS},
        "scene_probe": {
            variant: {
                view: {name: 0.42 + 0.1 * place for place, name in enumerate(FIXTURES)}
                for view in ("embedding", "latent", "first_latent", "imagined_16")
            }
            for variant in VARIANTS
        },
    }
    write(directory / "world_model.json", result)


def _task(directory: Path, kind: str, profile: Profile, rng: np.random.Generator) -> None:
    if kind == "policy":
        journal = [
            {
                "step": step,
                "train_loss": 0.9 * np.exp(-step / 600) + 0.1,
                "validation_loss": 0.8 * np.exp(-step / 600) + 0.2,
            }
            for step in range(100, 2501, 100)
        ]
        write_records(directory / "metrics.jsonl", journal)
    elif kind == "reward":
        figures = {"precision_imagined": 0.91, "recall_imagined": 0.84}
        figures |= {"missed_windows_imagined": 0.07, "false_alarm_windows_imagined": None}
        figures |= {"precision_real": 0.97, "recall_real": 0.93}
        write(directory / "summary.json", {**figures, "calibrated_on": "validation"})
    else:
        for seed in profile.finetune.seeds:
            journal = [
                {"step": i, "explored_success": 0.6 + 0.3 * i / 20 + rng.normal(0, 0.03)}
                for i in range(1, 21)
            ]
            write_records(directory / f"seed-{seed}" / "metrics.jsonl", journal)
            final = {
                "kept_clone": None,
                "imagined_success_first": 0.5 + 0.2 * rng.random(),
                "imagined_success_last": 0.7 + 0.2 * rng.random(),
            }
            write(directory / f"seed-{seed}" / "summary.json", final)


def pictures(count: int) -> np.ndarray:
    """uint8 [count, 64, 64, 3]: a shaded ground with a dark square that moves."""
    ramp = np.linspace(120, 220, 64)
    frames = np.broadcast_to(ramp[None, :, None, None], (count, 64, 64, 3)).astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[20:36, 4 * t : 4 * t + 16] = (40, 60, 90)
    return frames


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
