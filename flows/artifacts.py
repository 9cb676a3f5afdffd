"""What a stage left, as artifacts of its run in Prefect: tables, pictures, the way to the page.

Keys hold the profile, so that each shows its own history.
"""

import re
from collections.abc import Callable
from pathlib import Path

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from pipeline.artifacts.layout import STUDY_RESULTS, Layout
from pipeline.artifacts.manifests import SUMMARY, read_json, read_manifest
from pipeline.evaluation.results import POLICY_STAGES, VARIANT_NAMES
from pipeline.report import figures, sections, sources
from pipeline.report.page import PAGE
from wam.config import CAMERA_NAMES


def publish(stage: str) -> None:
    """Create the artifacts of a DVC stage, such as ``evaluate@demo-wam``, that has been run.

    Within a run of a flow or task; the conversion, which has a run of its own, shows its store.
    """
    name, _, item = stage.partition("@")
    if name == "study_report":
        _markdown("study", STUDY_RESULTS)
    if name not in _SHOWN:
        return
    show, has_variant = _SHOWN[name]
    # The name of a profile may have hyphens, too.
    profile, _, variant = item.rpartition("-") if has_variant else (item, "", "")
    show(profile, Layout.of(profile), variant)


def key(*parts: str) -> str:
    """Of an artifact: what Prefect allows, which is small letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts if part)


def publish_store(profile: str) -> None:
    """Create the artifact of a profile's store, within the run that has converted it."""
    layout = Layout.of(profile)
    manifest = read_manifest(layout.store, "convert")
    counts = {"num_frames": "frames", "num_episodes": "episodes", "num_shards": "shards"}
    rows = [
        {"split": split, **{label: content[name] for name, label in counts.items()}}
        for split, content in manifest["splits"].items()
    ]
    about = f"{layout.store}, source {manifest['source_digest']}"
    create_table_artifact(rows, key(profile, "store"), about)


def _world_model(profile: str, layout: Layout, variant: str) -> None:
    directory, label = layout.world_model(variant), VARIANT_NAMES[variant]
    curves = sections.world_model_curves(layout)
    if curves is not None:
        picture = figures.data_address(curves)
        create_image_artifact(picture, key(profile, "learning-curves"), "World models")
    films = sources.images({name: directory / f"film_{name}.png" for name in CAMERA_NAMES})
    for camera, picture in films.items():
        about = f"{label}, {camera} camera: real, filtered, predicted"
        create_image_artifact(picture, key(profile, "film", variant, camera), about)
    figures_of = read_json(directory / SUMMARY, dict)
    rows = [{"figure": name, "value": value} for name, value in figures_of.items()]
    create_table_artifact(rows, key(profile, "world-model", variant), label)


def _success(profile: str, layout: Layout, variant: str) -> None:
    rows = [
        {
            "task": row["task"],
            "policy": POLICY_STAGES[row["stage"]],
            "seed": row["seed"],
            "successes": f"{row['successes']}/{row['episodes']}",
            "rate %": round(100 * row["success_rate"], 1),
            "95 % interval": f"{100 * row['ci_low']:.0f}-{100 * row['ci_high']:.0f}",
        }
        for row in read_json(layout.evaluation(variant) / SUMMARY)
    ]
    create_table_artifact(rows, key(profile, "success", variant), VARIANT_NAMES[variant])


def _results(profile: str, layout: Layout, variant: str) -> None:
    _markdown(profile, layout.results)
    page = (layout.report / PAGE).absolute().as_uri()
    create_link_artifact(page, "the page, on the machine that made it", key(profile, "page"))


def _markdown(name: str, results: Path) -> None:
    create_markdown_artifact((results / "table.md").read_text(), key("results", name))


_SHOWN: dict[str, tuple[Callable[[str, Layout, str], None], bool]] = {
    "train_world_model": (_world_model, True),
    "evaluate": (_success, True),
    "report": (_results, False),
}
"""What shows a stage, and whether it has variants"""
