"""What the page says about data, origin and settings."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.artifacts.manifests import MANIFEST
from pipeline.evaluation.results import VARIANT_NAMES
from pipeline.latents.demonstrations import load_demos
from pipeline.params import Profile
from pipeline.report.sources import (
    commit,
    fingerprint,
    made_by,
    manifest,
    optional_json,
    size,
)
from pipeline.store.arrays import SIMULATOR_ATTRIBUTES
from pipeline.store.open import Store, open_store
from wam.config import FPS, VARIANTS

Facts = list[tuple[str, str]]


def stores(layout: Layout) -> dict[str, Store]:
    """The store's splits, as far as there is a store."""
    if not (layout.store / MANIFEST).is_file():
        return {}
    return {split: open_store(store_path(layout.store, split)) for split in SPLITS}


def data(layout: Layout, found: dict[str, Store]) -> Facts:
    """Frames, episodes and sizes."""
    if not found:
        return []
    pairs = []
    for split, store in found.items():
        minutes = store.num_frames / FPS / 60
        pairs.append(
            (
                split,
                f"{store.num_frames:,} frames ({minutes:.1f} min), {len(store.episodes)} episodes",
            )
        )
    attrs = found["training"].attrs
    shapes = attrs["source_image_shapes"]
    pairs += [
        ("scene", attrs["scene"] or "unknown"),
        ("made with", _origin([attrs])),
        ("recorded images", ", ".join(f"{n} {s[0]}x{s[1]}" for n, s in sorted(shapes.items()))),
        ("store (Zarr)", _bytes(size(layout.store))),
    ]
    if (layout.shards / MANIFEST).is_file():
        pairs.append(("shards (WebDataset)", _bytes(size(layout.shards))))
    return pairs


def demos(layout: Layout, tasks: Sequence[str]) -> dict[str, Any] | None:
    """Windows, demonstrations and starts per task."""
    if not (layout.demos / MANIFEST).is_file():
        return None
    found = load_demos(layout.demos)
    index = optional_json(layout.index / "index.json") or {"splits": {}}
    counts = {split: content["annotations"] or {} for split, content in index["splits"].items()}
    rows = [
        [
            task.replace("_", " "),
            str(counts.get("training", {}).get(task, "-")),
            str(len(found.tasks[task].training)),
            str(counts.get("validation", {}).get(task, "-")),
            str(len(found.tasks[task].starts)),
            str(len(found.tasks[task].imagination_starts)),
        ]
        for task in tasks
        if task in found.tasks
    ]
    columns = [
        "task",
        "training windows",
        "of these used",
        "validation windows",
        "held-out starts",
        "imagined starts",
    ]
    return {"columns": columns, "rows": rows}


def provenance(
    profile: Profile, profile_name: str, layout: Layout, found: dict[str, Store]
) -> Facts:
    """Where the numbers come from, in one list."""
    trained = {v: manifest(layout.world_model(v)) for v in VARIANTS}
    evaluated = {name: manifest(layout.evaluation(name)) for name in evaluations()}
    versions: dict[str, str] = next((m["versions"] for m in trained.values() if m), {})
    devices = {m["params"]["device"] for m in trained.values() if m}
    source = profile.raw.path or "made by the embedded simulator (wam collect)"
    return [
        ("profile", profile_name),
        ("data", source),
        ("source digest", next((str(s.attrs["source_digest"]) for s in found.values()), "unknown")),
        (
            "simulator",
            f"scene {profile.env.scene}, " + _origin([m for m in evaluated.values() if m]),
        ),
        ("code", _commits(layout)),
        ("trained on", ", ".join(sorted(devices)) or "unknown"),
        (
            "seeds",
            f"world model {profile.train_world_model.seed} · cloning {profile.policy.seed} · "
            f"PPO {', '.join(str(seed) for seed in profile.finetune.seeds)} · "
            f"evaluation {profile.evaluate.seed}",
        ),
        ("versions", " · ".join(f"{name} {version}" for name, version in versions.items())),
        ("report made on", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"),
    ]


def tuned_in_simulator(layout: Layout) -> list[str]:
    """Variants whose policies were fine-tuned in the simulator, not in imagination."""
    return [
        variant
        for variant in VARIANTS
        if manifest(layout.finetune(variant)).get("environment") == "simulator"
    ]


def evaluations() -> list[str]:
    """Names of the evaluation directories."""
    return ["controls", *VARIANTS]


def fingerprints(layout: Layout) -> dict[str, str]:
    """The identity of every artifact behind the page, by name."""
    return {name: fingerprint(path) for name, path in _places(layout)}


def artifacts(layout: Layout) -> list[tuple[str, Facts]]:
    """Identity and origin of every artifact behind the page."""
    origins = [(name, made_by(path)) for name, path in _places(layout)]
    return [
        ("Fingerprints of the artifacts", list(fingerprints(layout).items())),
        ("What made them", origins),
    ]


def _places(layout: Layout) -> list[tuple[str, Path]]:
    return [
        ("index", layout.index),
        ("store", layout.store),
        ("shards", layout.shards),
        ("demonstrations", layout.demos),
        *(
            (f"{kind} · {VARIANT_NAMES[variant]}", place(variant))
            for kind, place in (
                ("world model", layout.world_model),
                ("features", layout.features),
                ("reward", layout.reward),
                ("policy", layout.policy),
                ("fine-tuned", layout.finetune),
                ("evaluation", layout.evaluation),
            )
            for variant in VARIANTS
        ),
        ("evaluation · controls", layout.evaluation("controls")),
        ("evaluation · world models", layout.world_model_evaluation),
    ]


def _origin(records: Sequence[Mapping[str, Any]]) -> str:
    """What the recordings or results were made with, every value that occurs."""
    found = {
        name: sorted({str(record.get(name) or "unknown") for record in records}) or ["unknown"]
        for name in SIMULATOR_ATTRIBUTES
    }
    return ", ".join(f"{name.replace('_', ' ')} {' and '.join(v)}" for name, v in found.items())


def _commits(layout: Layout) -> str:
    """The commits that made the artifacts, as their manifests say."""
    found = {code: None for _, path in _places(layout) if (code := commit(path))}
    return " · ".join(found) or "unknown"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.2f} GB"
