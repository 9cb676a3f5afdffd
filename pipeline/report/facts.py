"""What the page says about data, origin and settings."""

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.artifacts.manifests import MANIFEST, SUMMARY, fingerprint
from pipeline.artifacts.provenance import commit_of
from pipeline.evaluation.results import VARIANT_NAMES
from pipeline.evaluation.worlds import WORLD_NAMES, WORLDS
from pipeline.latents.demonstrations import load_demos
from pipeline.params import Profile
from pipeline.report.sources import TextTable, manifest, optional_json
from pipeline.store.arrays import SIMULATOR_ATTRIBUTES
from pipeline.store.open import Store, open_store
from wam.config import FPS, VARIANTS

EVALUATIONS = ("controls", *VARIANTS)
"""Names of the evaluation directories."""
_LARGE = ("convert", "export")
"""Stages whose output is checked as it is read."""

Facts = dict[str, str]


def stores(layout: Layout) -> dict[str, Store]:
    """The store's splits, as far as there is a store."""
    if not (layout.store / MANIFEST).is_file():
        return {}
    return {split: open_store(store_path(layout.store, split)) for split in SPLITS}


def data(layout: Layout, found: dict[str, Store]) -> Facts:
    """Frames, episodes and sizes."""
    if not found:
        return {}
    attrs = found["training"].attrs
    shapes = sorted(attrs["source_image_shapes"].items())
    facts = {
        split: f"{store.num_frames:,} frames ({store.num_frames / FPS / 60:.1f} min), "
        f"{len(store.episodes)} episodes"
        for split, store in found.items()
    }
    facts |= {
        "scene": attrs["scene"] or "unknown",
        "made with": _origin([attrs]),
        "recorded images": ", ".join(f"{name} {shape[0]}x{shape[1]}" for name, shape in shapes),
        "store (Zarr)": _size(layout.store),
    }
    if (layout.shards / MANIFEST).is_file():
        facts["shards (WebDataset)"] = _size(layout.shards)
    return facts


def demos(layout: Layout, tasks: Sequence[str]) -> TextTable:
    """Windows, demonstrations and starts per task."""
    if not (layout.demos / MANIFEST).is_file():
        return []
    found = load_demos(layout.demos).tasks
    index = optional_json(layout.index / "index.json") or {"splits": {}}
    counts = {split: content["annotations"] or {} for split, content in index["splits"].items()}
    return [
        {
            "task": task.replace("_", " "),
            "training windows": str(counts.get("training", {}).get(task, "-")),
            "of these used": str(len(found[task].training)),
            "validation windows": str(counts.get("validation", {}).get(task, "-")),
            "held-out starts": str(len(found[task].starts)),
            "imagined starts": str(len(found[task].imagination_starts)),
        }
        for task in tasks
        if task in found
    ]


def provenance(profile: Profile, layout: Layout, found: dict[str, Store]) -> Facts:
    """Where the numbers come from, in one list."""
    trained = [entry for v in VARIANTS if (entry := manifest(layout.world_model(v)))]
    evaluated = [entry for name in EVALUATIONS if (entry := manifest(layout.evaluation(name)))]
    versions = trained[0]["versions"] if trained else {}
    commits = (_commit(manifest(path)) for path in _places(layout).values())
    return {
        "profile": layout.root.name,
        "data": profile.raw.path or "made by the embedded simulator (wam collect)",
        "source digest": found["training"].attrs["source_digest"] if found else "unknown",
        "simulator": f"scene {profile.env.scene}, {_origin(evaluated)}",
        "code": " · ".join(dict.fromkeys(filter(None, commits))) or "unknown",
        "trained on": ", ".join(sorted({m["params"]["device"] for m in trained})) or "unknown",
        "seeds": f"world model {profile.train_world_model.seed} · cloning {profile.policy.seed} · "
        f"PPO {', '.join(str(seed) for seed in profile.finetune.seeds) or 'none'} · "
        f"evaluation {profile.evaluate.seed}",
        "versions": " · ".join(f"{name} {version}" for name, version in versions.items()),
        "report made on": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def tuned_in_simulator(layout: Layout) -> list[str]:
    """Variants whose policies were fine-tuned in the simulator, not in imagination."""
    return [
        variant
        for variant in VARIANTS
        if manifest(layout.finetune(variant)).get("environment") == "simulator"
    ]


def kept_clones(layout: Layout, profile: Profile) -> list[str]:
    """Which fine-tuned policies are the clones, and why (``finetune.gate: keep``)."""
    places = itertools.product(VARIANTS, profile.tasks, profile.finetune.seeds)
    found = {
        place: optional_json(layout.finetune(place[0]) / place[1] / f"seed-{place[2]}" / SUMMARY)
        for place in places
    }
    return [
        f"{VARIANT_NAMES[variant]}, {task.replace('_', ' ')}, seed {seed}: PPO's policy is the "
        f"clone, since {summary['kept_clone']}."
        for (variant, task, seed), summary in found.items()
        if summary and summary["kept_clone"]
    ]


def fingerprints(layout: Layout) -> Facts:
    """The identity of every artifact behind the page, by name.

    Raises WamError if a file of one is damaged.
    """
    return {
        name: fingerprint(path, stage, deep=stage not in _LARGE)
        if (stage := manifest(path).get("stage"))
        else "not computed"
        for name, path in _places(layout).items()
    }


def made_by(layout: Layout) -> Facts:
    """Code and command that made every artifact behind the page."""
    found = {name: manifest(path) for name, path in _places(layout).items()}
    return {
        name: f"{code} · {made['provenance']['command']}"
        if (code := _commit(made))
        else "not computed"
        for name, made in found.items()
    }


def _places(layout: Layout) -> dict[str, Path]:
    return {
        "index": layout.index,
        "store": layout.store,
        "shards": layout.shards,
        "demonstrations": layout.demos,
        **{
            f"{kind} · {VARIANT_NAMES[variant]}": place(variant)
            for kind, place in (
                ("world model", layout.world_model),
                ("features", layout.features),
                ("reward", layout.reward),
                ("policy", layout.policy),
                ("fine-tuned", layout.finetune),
                ("evaluation", layout.evaluation),
            )
            for variant in VARIANTS
        },
        "evaluation · controls": layout.evaluation("controls"),
        **{
            f"transfer to {WORLD_NAMES[world]} · {name}": place
            for world in WORLDS
            for name in EVALUATIONS
            if manifest(place := layout.transfer(world, name))
        },
        "evaluation · world models": layout.world_model_evaluation,
    }


def _origin(records: Sequence[Mapping[str, Any]]) -> str:
    """What the recordings or results were made with, every value that occurs."""
    found = {
        name: sorted({str(record.get(name) or "unknown") for record in records}) or ["unknown"]
        for name in SIMULATOR_ATTRIBUTES
    }
    return ", ".join(f"{name.replace('_', ' ')} {' and '.join(v)}" for name, v in found.items())


def _commit(made: Mapping[str, Any]) -> str | None:
    """The code that made an artifact; None where its manifest does not say."""
    origin = made.get("provenance")
    if origin is None:
        return None
    if origin["commit"] is None:
        return f"outside of git, sources {origin['code'][:12]}"
    return f"git {commit_of(origin)}"


def _size(directory: Path) -> str:
    """That of all files below ``directory``."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return decimal(sum(path.stat().st_size for path in files))
