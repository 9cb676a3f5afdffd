"""The parts of the page that come from the evaluation of the world models."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import VARIANT_NAMES
from pipeline.report.figures import COLOURS, Panel, Series, panels
from pipeline.report.sections import CAMERAS, TextTable
from pipeline.report.sources import optional_json
from wam.config import ACTION_NAMES, VARIANTS
from wam.tasks import FIXTURES

RESULT_FILE = "world_model.json"

_MEASURES = {
    "psnr": ("PSNR (dB)", "{:.2f}"),
    "ssim": ("SSIM", "{:.3f}"),
    "lpips": ("LPIPS", "{:.3f}"),
    "st_lpips": ("ST-LPIPS", "{:.3f}"),
    "posterior_psnr": ("PSNR filtered (dB)", "{:.2f}"),
    "fvd": ("FVD", "{:.1f}"),
}
"""Names and formats; of the distances less is better."""
_VIEWS = {
    "embedding": "visual embedding",
    "latent": "latent",
    "first_latent": "latent of a first frame",
}
_PROBES = {"linear": "linear", "mlp": "one hidden layer"}


def result(layout: Layout) -> dict[str, Any] | None:
    """The evaluation's result, None where there is none."""
    return optional_json(layout.world_model_evaluation / RESULT_FILE)


def curves(layout: Layout) -> str | None:
    """Prediction quality over the horizon, a panel per camera and measure."""
    found = optional_json(layout.world_model_evaluation / "open_loop.json")
    if not found:
        return None
    row = [
        Panel(
            f"{_MEASURES[measure][0]}, {camera}",
            [_line(variant, found[variant], f"{measure}_{camera}") for variant in VARIANTS],
            "steps ahead",
        )
        for measure in ("psnr", "ssim")
        for camera in CAMERAS
    ]
    return panels(row, "open-loop quality over the horizon", width=2.75)


def quality(found: Mapping[str, Any] | None) -> TextTable | None:
    """Every measure by camera, single horizons for the mean of both, and the paired differences."""
    if not found:
        return None
    rows = []
    for row in found["quality"]:
        if row["horizon"] is None or row["camera"] == "both":
            label, form = _MEASURES[row["measure"]]
            camera = "both cameras" if row["camera"] == "both" else f"{row['camera']} camera"
            step = "" if row["horizon"] is None else f", step {row['horizon']}"
            cells = (_spread(row[variant], form) for variant in VARIANTS)
            rows.append([f"{label}, {camera}{step}", *cells, _interval(row["difference"], form)])
    for name, entry in found["perceptual"].items():
        if VARIANTS[0] in entry:
            label, form = _MEASURES[name]
            rows.append([label, *(form.format(entry[v]["both"]) for v in VARIANTS), ""])
    names = [VARIANT_NAMES[variant] for variant in VARIANTS]
    return {"columns": [*names, f"{' - '.join(names)} [95 %]"], "rows": rows}


def not_computed(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The learned distances that are missing, and why."""
    entries = found["perceptual"] if found else {}
    return [(_MEASURES[n][0], entry["why"]) for n, entry in entries.items() if "why" in entry]


def probes(found: Mapping[str, Any] | None) -> TextTable | None:
    """What the encoders tell about the actions, and the predicted frames."""
    if not found:
        return None
    encoders = {"untrained": "untrained"} | {v: VARIANT_NAMES[v] for v in VARIANTS}
    rows = [
        [f"{label}, {kind_label}", *_score(found["probe"][encoder][kind])]
        for kind, kind_label in _PROBES.items()
        for encoder, label in encoders.items()
    ]
    rows += [
        [f"{VARIANT_NAMES[v]}, predicted frames", *_score(found["action_faithfulness"][v])]
        for v in VARIANTS
    ]
    majority = found["probe"]["untrained"]["linear"]["gripper_majority"]
    rows.append(["the more frequent command", *("" for _ in range(7)), f"{majority:.1%}", "50.0%"])
    motion = [f"R² {name}" for name in ACTION_NAMES[:-1]]
    return {"columns": [*motion, "R² mean", "gripper", "balanced"], "rows": rows}


def scene_probes(found: Mapping[str, Any] | None) -> TextTable | None:
    """What images, and the latents made of them, tell about the scene."""
    if not found:
        return None
    rows = [
        [
            f"{VARIANT_NAMES[v]}, {label}",
            *(f"{found['scene_probe'][v][view][name]:.2f}" for name in FIXTURES),
        ]
        for v in VARIANTS
        for view, label in _VIEWS.items()
    ]
    return {"columns": [f"R² {name}" for name in FIXTURES], "rows": rows}


def _spread(values: Mapping[str, float], form: str) -> str:
    return f"{form.format(values['mean'])} ± {form.format(values['std'])}"


def _interval(difference: Mapping[str, float] | None, form: str) -> str:
    if difference is None:
        return "-"
    value, low, high = (
        form.replace(":", ":+").format(difference[key]) for key in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def _line(variant: str, records: Sequence[Mapping[str, float]], key: str) -> Series:
    """The mean over sequences; the band of the sequences' spread would hide the difference."""
    x, y = zip(*((record["horizon"], record[key]) for record in records), strict=True)
    return Series(VARIANT_NAMES[variant], COLOURS[variant], x, y)


def _score(scores: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{value:.3f}" for value in (*scores["r2"], scores["r2_mean"])),
        f"{scores['gripper_accuracy']:.1%}",
        f"{scores['gripper_balanced_accuracy']:.1%}",
    ]
