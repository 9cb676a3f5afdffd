"""The parts of the page that come from the evaluation of the world models."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import VARIANT_NAMES
from pipeline.evaluation.statistics import Estimate
from pipeline.report.figures import COLOURS, Panel, Series, panels
from pipeline.report.sources import TextTable, optional_json
from wam.config import ACTION_NAMES, CAMERA_NAMES, VARIANTS

RESULT_FILE = "world_model.json"

_MEASURES = {
    "psnr": ("PSNR (dB)", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "lpips": ("LPIPS", ".3f"),
    "st_lpips": ("ST-LPIPS", ".3f"),
    "posterior_psnr": ("PSNR filtered (dB)", ".2f"),
    "fvd": ("FVD", ".1f"),
}
"""Names and formats; of the distances less is better."""
_VIEWS = {
    "embedding": "visual embedding",
    "latent": "latent",
    "first_latent": "latent of a first frame",
}
_PROBES = {"linear": "linear", "mlp": "one hidden layer"}


def result(layout: Layout) -> dict[str, Any]:
    """The evaluation's result, empty where there is none."""
    return optional_json(layout.world_model_evaluation / RESULT_FILE) or {}


def curves(layout: Layout) -> Markup | None:
    """Prediction quality over the horizon, a panel per camera and measure.

    Means over sequences: the band of their spread would hide the difference.
    """
    found = optional_json(layout.world_model_evaluation / "open_loop.json")
    if not found:
        return None
    row = [
        Panel(
            f"{_MEASURES[measure][0]}, {camera}",
            [
                Series(
                    VARIANT_NAMES[variant],
                    COLOURS[variant],
                    [record["horizon"] for record in found[variant]],
                    [record[f"{measure}_{camera}"] for record in found[variant]],
                )
                for variant in VARIANTS
            ],
            "steps ahead",
        )
        for measure in ("psnr", "ssim")
        for camera in CAMERA_NAMES
    ]
    return panels(row, "open-loop quality over the horizon")


def quality(found: Mapping[str, Any]) -> TextTable:
    """Every measure by camera, single horizons for the mean of both, and the paired differences."""
    between = f"{' - '.join(VARIANT_NAMES.values())} [95 %]"
    rows = []
    for row in found["quality"]:
        if row["horizon"] is None or row["camera"] == "both":
            label, form = _MEASURES[row["measure"]]
            camera = "both cameras" if row["camera"] == "both" else f"{row['camera']} camera"
            step = "" if row["horizon"] is None else f", step {row['horizon']}"
            cells = {
                name: f"{row[v]['mean']:{form}} ± {row[v]['std']:{form}}"
                for v, name in VARIANT_NAMES.items()
            }
            difference = Estimate(**row["difference"]).signed(form) if row["difference"] else "-"
            rows.append({"measure": f"{label}, {camera}{step}", **cells, between: difference})
    for measure, entry in found["perceptual"].items():
        if VARIANTS[0] in entry:
            label, form = _MEASURES[measure]
            cells = {name: f"{entry[v]['both']:{form}}" for v, name in VARIANT_NAMES.items()}
            rows.append({"measure": label, **cells, between: ""})
    return rows


def not_computed(found: Mapping[str, Any]) -> dict[str, str]:
    """The learned distances that are missing, and why."""
    entries = found["perceptual"].items()
    return {_MEASURES[name][0]: entry["why"] for name, entry in entries if "why" in entry}


def probes(found: Mapping[str, Any]) -> TextTable:
    """What the encoders tell about the actions, and the predicted frames."""
    encoders = {"untrained": "untrained"} | VARIANT_NAMES
    scores = {
        f"{label}, {kind_label}": found["probe"][encoder][kind]
        for kind, kind_label in _PROBES.items()
        for encoder, label in encoders.items()
    }
    scores |= {
        f"{VARIANT_NAMES[v]}, predicted frames": found["action_faithfulness"][v] for v in VARIANTS
    }
    columns = [*(f"R² {name}" for name in ACTION_NAMES[:-1]), "R² mean"]
    majority = found["probe"]["untrained"]["linear"]["gripper_majority"]
    rows = [
        {
            "probe": name,
            **{c: f"{r2:.3f}" for c, r2 in zip(columns, [*s["r2"], s["r2_mean"]], strict=True)},
            "gripper": f"{s['gripper_accuracy']:.1%}",
            "balanced": f"{s['gripper_balanced_accuracy']:.1%}",
        }
        for name, s in scores.items()
    ]
    constant = {"gripper": f"{majority:.1%}", "balanced": "50.0%"}
    return [*rows, {"probe": "the more frequent command", **dict.fromkeys(columns, ""), **constant}]


def scene_probes(found: Mapping[str, Any]) -> TextTable:
    """What images, the latents made of them and the latents imagined from these tell of a scene."""
    views = found["scene_probe"][VARIANTS[0]]
    steps = sorted(int(view.split("_")[1]) for view in views.keys() - _VIEWS.keys())
    labels = _VIEWS | {f"imagined_{t}": f"latent imagined for {t} steps" for t in steps}
    return [
        {
            "probe": f"{VARIANT_NAMES[v]}, {label}",
            **{f"R² {name}": f"{r2:.2f}" for name, r2 in found["scene_probe"][v][view].items()},
        }
        for v in VARIANTS
        for view, label in labels.items()
    ]


def responses(found: Mapping[str, Any]) -> TextTable:
    """How much of the commanded motion imagined hands make."""
    return [
        {
            "world model": VARIANT_NAMES[v],
            "under its window's own actions": f"{found['action_response'][v]['own']:.0%}",
            "under another window's": f"{found['action_response'][v]['others']:.0%}",
        }
        for v in VARIANTS
    ]
