"""Stage ``evaluate-world-model``: both variants on the same held-out play (docs/algorithm.md 8).

Open loop: from one given frame a model predicts the rest of a sequence from the recorded actions,
one sample of the prior per step. The variants see the same sequences and the same random numbers,
so that their differences are paired. Probes then ask what the frozen encoders, and the predicted
frames, tell about the actions, and what encoders and latents tell about the scene.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.table import Table

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout, store_path
from pipeline.artifacts.manifests import fingerprint, read_json, read_manifest, write_json
from pipeline.batches.embedded import with_lag
from pipeline.batches.from_store import validation_windows
from pipeline.batches.order import fixed_windows
from pipeline.evaluation.open_loop import BOTH, OpenLoop, measure
from pipeline.evaluation.perceptual import (
    CLIP_FEATURES,
    FRAME_DISTANCES,
    frechet_distance,
    open_available,
)
from pipeline.evaluation.results import trained_apart
from pipeline.evaluation.statistics import Estimate, paired_difference
from pipeline.params import EvaluateWorldModel, Profile
from pipeline.store.open import open_store
from wam import device as devices
from wam.batch import Batch
from wam.config import CAMERA_NAMES, VARIANTS
from wam.errors import WamError
from wam.tasks import FIXTURES
from wam.world_model.assessment import Predictions, predict
from wam.world_model.load import load_world_model
from wam.world_model.model import WorldModel
from wam.world_model.probe import (
    FramePairs,
    Probe,
    SceneViews,
    action_pairs,
    action_response,
    embed_windows,
    explained,
    fit_linear,
    fit_mlp,
    imagined_views,
    scene_views,
    score,
)

STAGE = "evaluate-world-model"
HORIZONS = (1, 5, 10, 25, 50)
"""Steps ahead that tables show; the curves hold all."""
PROBED_HORIZONS = (4, 16, 32, 64)
"""Imagined steps after which latents are asked about the scene, as far as the windows reach."""
PROBED = (*FIXTURES, "hand x", "hand y", "hand z")
"""What embeddings and latents are asked about: the fixtures, and where the hand is (m)."""
RESPONSE_STEPS = 16
"""Imagined steps after which the hand should be where it was told to go."""
UNTRAINED = "untrained"
"""The encoder before training: what a probe finds in images that nothing was learned from."""


def run(profile: Profile, layout: Layout, variants: Sequence[str] = VARIANTS) -> None:
    """Evaluate ``variants``; writes ``world_model.json``, ``open_loop.json`` and ``metrics.json``.

    Raises WamError if a world model or the store is absent, or a file of weights is unusable.
    """
    device = devices.resolve(profile.device)
    devices.keep_freed_memory()
    inputs = {"store": fingerprint(layout.store, "convert", deep=False)}
    for variant in variants:
        inputs[variant] = fingerprint(layout.world_model(variant), "train-world-model")
    params = {
        "evaluate_world_model": asdict(profile.evaluate_world_model),
        "filtering": profile.features.filtering._asdict(),
        "untrained_seed": profile.train_world_model.seed,
        "device": device.type,
    }
    output = layout.world_model_evaluation

    def make(target: Build) -> None:
        with devices.threads(profile.train_world_model.threads):
            result, curves = _evaluate(profile, layout, variants, device)
        write_json(target.directory / "world_model.json", result)
        write_json(target.directory / "open_loop.json", curves)
        write_json(target.directory / "metrics.json", _metrics(result))

    build(output, make, stage=STAGE, params=params, inputs=inputs)
    _show(read_json(output / "world_model.json"))
    trained = {v: read_manifest(layout.world_model(v), "train-world-model") for v in variants}
    if (notice := trained_apart(trained)) is not None:
        console.warn(notice)
    console.done(STAGE, str(output))


def _evaluate(
    profile: Profile, layout: Layout, variants: Sequence[str], device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of the result's file and of the curves'."""
    settings, filtering = profile.evaluate_world_model, profile.features.filtering
    distances, no_distances = open_available(FRAME_DISTANCES, settings, device)
    features, no_features = open_available(CLIP_FEATURES, settings, device)
    missing = no_distances | no_features
    for name, why in missing.items():
        console.note(f"{name}: not computed: {why}")
    models = {
        variant: load_world_model(layout.world_model(variant), device)[0] for variant in variants
    }
    kinds = {variant: model.config.distractors for variant, model in models.items()}
    if len(set(kinds.values())) > 1:
        raise WamError(
            f"world_model.distractors: models that see other images are not compared ({kinds}); "
            "run 'wam train-world-model' again for one of them"
        )
    distractors = any(kinds.values())
    training, learned = _play(
        layout, "training", settings.probe_sequences, settings, distractors=distractors
    )
    held_out, judged = _play(
        layout, "validation", settings.open_loop_sequences, settings, distractors=distractors
    )
    untrained = WorldModel(models[variants[0]].config, profile.train_world_model.seed).to(device)
    seen = [embed_windows(untrained, windows, device) for windows in (training, held_out)]
    probes = {UNTRAINED: _probe(seen, training, held_out, settings.seed)[1]}
    opened: dict[str, OpenLoop] = {}
    faithfulness, scene, response = {}, {}, {}
    total = len(models) * settings.open_loop_sequences
    with console.progress("evaluate world models", total, "sequences") as advance:
        for variant, model in models.items():
            seen = [embed_windows(model, windows, device) for windows in (training, held_out)]
            probe, probes[variant] = _probe(seen, training, held_out, settings.seed)
            predictions = _counted(
                predict(model, held_out, settings.seed, device, filtering), advance
            )
            opened[variant] = measure(model, predictions, distances, features)
            pairs = opened[variant].pairs
            faithfulness[variant] = score(probe(pairs.inputs), pairs.target)
            fitted = scene_views(model, seen[0], training, learned, settings.seed, filtering)
            told = (seen[1], held_out, judged, settings.seed)
            scene[variant] = _probe_scene(
                fitted,
                scene_views(model, *told, filtering),
                imagined_views(model, *told, PROBED_HORIZONS, filtering),
            )
            hand = FramePairs(fitted.latent.inputs, fitted.latent.target[:, len(FIXTURES) :])
            response[variant] = action_response(
                model, fit_linear(hand), seen[1], held_out, settings.seed, RESPONSE_STEPS, filtering
            )
    result = {
        "sequences": settings.open_loop_sequences,
        "steps": settings.open_loop_steps,
        "quality": _compare(opened),
        "perceptual": {
            **{name: {"computed": False, "why": why} for name, why in missing.items()},
            **{name: {"computed": True} for name in distances},
            **{name: {"computed": True, **_frechet(name, opened)} for name in features},
        },
        "probe_pairs": int(training.id_mask.sum()),
        "probe": probes,
        "action_faithfulness": faithfulness,
        "scene_probe": scene,
        "action_response": response,
    }
    return result, {variant: _curve(entry) for variant, entry in opened.items()}


def _play(
    layout: Layout, split: str, count: int, settings: EvaluateWorldModel, *, distractors: bool
) -> tuple[Batch, torch.Tensor]:
    """Fixed windows [T, B], and what is :data:`PROBED` in them, float32 [T, B, 8]."""
    store = open_store(store_path(layout.store, split), distractors=distractors)
    length = settings.open_loop_steps + 1
    windows = validation_windows(store, length, count, settings.seed)
    starts = fixed_windows(store.episodes, length, count, settings.seed)
    rows = starts + np.arange(length)[:, None]
    fixtures = store.read("scene_obs")[rows][..., list(FIXTURES.values())]
    hand = store.read("robot_obs")[rows][..., :3]
    scene = torch.from_numpy(np.concatenate([fixtures, hand], -1).astype(np.float32))
    return with_lag(windows, store, starts), scene


def _probe_scene(
    learned: SceneViews, judged: SceneViews, imagined: Mapping[int, FramePairs]
) -> dict[str, dict[str, float]]:
    """R2 of all that is :data:`PROBED` by view, of linear probes fitted to ``learned``.

    What is known of the scene after so many imagined steps, the probe of filtered latents tells.
    """
    probes = {view: fit_linear(pairs) for view, pairs in learned._asdict().items()}
    views = {view: (probes[view], pairs) for view, pairs in judged._asdict().items()}
    views |= {f"imagined_{t}": (probes["latent"], pairs) for t, pairs in imagined.items()}
    found = {}
    for view, (probe, pairs) in views.items():
        shares = explained(probe(pairs.inputs), pairs.target)
        found[view] = dict(zip(PROBED, shares.tolist(), strict=True))
    return found


def _probe(
    embeddings: Sequence[torch.Tensor], training: Batch, held_out: Batch, seed: int
) -> tuple[Probe, dict[str, Any]]:
    """The nonlinear probe on both ``embeddings``, and the held-out scores of both kinds."""
    learned, judged = map(action_pairs, embeddings, (training, held_out))
    probes = {
        "linear": fit_linear(learned),
        "mlp": fit_mlp(learned, torch.Generator().manual_seed(seed)),
    }
    scores = {name: score(probe(judged.inputs), judged.target) for name, probe in probes.items()}
    return probes["mlp"], scores


def _counted(
    predictions: Iterator[Predictions], advance: Callable[[int], None]
) -> Iterator[Predictions]:
    for part in predictions:
        yield part
        advance(part.kl.shape[1])


def _compare(opened: Mapping[str, OpenLoop]) -> list[dict[str, Any]]:
    """A row per measure, camera and horizon; horizon None stands for the mean of all frames.

    Mean and standard deviation are over sequences, the difference is that of two variants on the
    same sequences; None for a single sequence, which tells nothing about others.
    """
    first = next(iter(opened.values()))
    rows = []
    for name, camera in first.quality:
        frames = {v: entry.quality[name, camera] for v, entry in opened.items()}
        reached = [
            horizon for horizon in HORIZONS if horizon <= first.quality[name, camera].shape[0]
        ]
        rows += [_row(name, camera, horizon, frames) for horizon in (None, *reached)]
    for camera in first.posterior_psnr:
        frames = {v: entry.posterior_psnr[camera] for v, entry in opened.items()}
        rows.append(_row("posterior_psnr", camera, None, frames))
    return rows


def _row(
    name: str, camera: str, horizon: int | None, frames: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """``frames`` [T, B] by variant."""
    at = {
        v: found.mean(0) if horizon is None else found[horizon - 1] for v, found in frames.items()
    }
    sides = list(at.values())
    paired = len(sides) == 2 and len(sides[0]) > 1
    return {
        "measure": name,
        "camera": camera,
        "horizon": horizon,
        **{v: {"mean": float(x.mean()), "std": float(x.std())} for v, x in at.items()},
        "difference": paired_difference(*sides)._asdict() if paired else None,
    }


def _frechet(name: str, opened: Mapping[str, OpenLoop]) -> dict[str, dict[str, float]]:
    """Per variant the distance of each camera's clips, and their mean."""
    distances = {}
    for variant, entry in opened.items():
        cameras = {camera: frechet_distance(*entry.clips[name, camera]) for camera in CAMERA_NAMES}
        distances[variant] = {**cameras, BOTH: sum(cameras.values()) / len(cameras)}
    return distances


def _curve(entry: OpenLoop) -> list[dict[str, float]]:
    """Means and standard deviations over sequences, a record per horizon."""
    return [
        {
            "horizon": step + 1,
            **{f"{n}_{c}": float(v[step].mean()) for (n, c), v in entry.quality.items()},
            **{f"{n}_{c}_std": float(v[step].std()) for (n, c), v in entry.quality.items()},
        }
        for step in range(len(entry.quality["psnr", BOTH]))
    ]


def _metrics(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The headline figures for ``dvc metrics``: variant -> figure."""
    figures: dict[str, dict[str, float]] = {}
    for variant in result["scene_probe"]:
        own = figures[variant] = {}
        for row in result["quality"]:
            if row["camera"] == BOTH:
                suffix = "" if row["horizon"] is None else f"_{row['horizon']}"
                own[row["measure"] + suffix] = row[variant]["mean"]
        for kind, scores in result["probe"][variant].items():
            own[f"probe_{kind}_r2"] = scores["r2_mean"]
            own[f"probe_{kind}_gripper_accuracy"] = scores["gripper_accuracy"]
        for view, shares in result["scene_probe"][variant].items():
            own[f"scene_{view}_r2"] = sum(shares.values()) / len(shares)
        for kind, slope in result["action_response"][variant].items():
            own[f"action_response_{kind}"] = slope
        own["action_faithfulness_r2"] = result["action_faithfulness"][variant]["r2_mean"]
    return figures


def _show(result: Mapping[str, Any]) -> None:
    title = f"open loop, {result['sequences']} sequences, mean of both cameras"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    variants = list(result["scene_probe"])
    for column in ("measure", "step", *variants, "difference [95 %]"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for row in result["quality"]:
        if row["camera"] == BOTH:
            form = ".2f" if "psnr" in row["measure"] else ".3f"
            difference = row["difference"]
            table.add_row(
                row["measure"],
                "all" if row["horizon"] is None else str(row["horizon"]),
                *(f"{row[v]['mean']:{form}} ± {row[v]['std']:{form}}" for v in variants),
                Estimate(**difference).signed(form) if difference else "-",
            )
    console.console.print(table)
    console.note("differences: of these two trained models, over the same held-out sequences")
    for variant, views in result["scene_probe"].items():
        for view, shares in views.items():
            found = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
            console.note(f"scene probe R², {variant}, {view.replace('_', ' ')}: {found}")
    for variant, slopes in result["action_response"].items():
        console.note(
            f"imagined hand, {variant}: makes {slopes['own']:.0%} of its own window's commanded "
            f"motion, {slopes['others']:.0%} of another window's"
        )
    for name, kinds in result["probe"].items():
        found = ", ".join(
            f"{kind} R² {scores['r2_mean']:.3f}, gripper {scores['gripper_accuracy']:.1%}"
            for kind, scores in kinds.items()
        )
        console.note(f"action probe, {name}: {found}")
