"""The parts of the page that come from training: curves, film strips, tables."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.layout import Layout
from pipeline.evaluation.results import FINETUNED, VARIANT_NAMES, Agreement, PolicyName, Results
from pipeline.report import facts
from pipeline.report.figures import COLOURS, Comparison, Panel, Series, dumbbells, panels
from pipeline.report.sources import data_uri, optional_json, records

CAMERAS = ("static", "gripper")

TextTable = dict[str, Any]
"""``columns`` and ``rows`` of text"""

_MEASURES = (
    ("open_loop_psnr", "PSNR open loop", "{:.2f} dB"),
    ("posterior_psnr", "PSNR filtered", "{:.2f} dB"),
    ("kl", "KL posterior to prior", "{:.2f} nats"),
    ("id_mae", "action error of the inverse dynamics", "{:.3f}"),
    ("gripper_accuracy", "gripper command recognised", "{:.1%}"),
    ("updates", "updates", "{:,}"),
    ("frames", "frames seen", "{:,}"),
    ("frames_per_s", "training frames per second", "{:,.0f}"),
)


def world_model_curves(layout: Layout, variants: Sequence[str]) -> str | None:
    """Training curves of the world models; None without any."""
    journals = {v: records(layout.world_model(v) / "metrics.jsonl") for v in variants}
    row = [
        Panel("Reconstruction loss", _lines(journals, "image_loss"), "updates", log=True),
        Panel("KL (nats)", _lines(journals, "kl"), "updates"),
        Panel("Inverse-dynamics error", _lines(journals, "action_loss"), "updates"),
        Panel("PSNR, static camera (dB)", _lines(journals, "psnr_static"), "updates"),
    ]
    return _row(row, "learning curves of the world models", width=2.75)


def validation(layout: Layout, variants: Sequence[str]) -> TextTable | None:
    """The world models on held-out play."""
    summaries = {v: optional_json(layout.world_model(v) / "summary.json") for v in variants}
    found = {v: summary for v, summary in summaries.items() if summary}
    rows = [
        [label, *(_format(summary.get(key), form) for summary in found.values())]
        for key, label, form in _MEASURES
        if any(key in summary for summary in found.values())
    ]
    return {"columns": [VARIANT_NAMES[v] for v in found], "rows": rows} if rows else None


def films(layout: Layout, variants: Sequence[str]) -> list[dict[str, Any]]:
    """Film strips of each world model."""
    groups = []
    for variant in variants:
        paths = [(c, layout.world_model(variant) / f"film_{c}.png") for c in CAMERAS]
        strips = [{"camera": c, "source": data_uri(path)} for c, path in paths if path.is_file()]
        groups.append({"label": VARIANT_NAMES[variant], "films": strips})
    return groups


def cloning(layout: Layout, variants: Sequence[str], tasks: Sequence[str]) -> str | None:
    """Loss of behaviour cloning, a panel per task."""
    row = []
    for task in tasks:
        journals = {v: records(layout.policy(v) / task / "metrics.jsonl") for v in variants}
        lines = [
            *_lines(journals, "train_loss"),
            *_lines(journals, "validation_loss", suffix=", held out", dashed=True),
        ]
        row.append(Panel(task.replace("_", " "), lines, "updates", log=True))
    return _rows(row, "behaviour-cloning loss")


def finetuning(
    layout: Layout, variants: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]
) -> str | None:
    """Explored success per PPO iteration, a panel per task; mean and range of the seeds.

    Imagined, but simulated and named so where a variant was fine-tuned in the simulator.
    """
    simulated = facts.tuned_in_simulator(layout)
    row = []
    for task in tasks:
        lines = []
        for variant in variants:
            runs = [
                records(layout.finetune(variant) / task / f"seed-{seed}" / "metrics.jsonl")
                for seed in seeds
            ]
            label = VARIANT_NAMES[variant] + (" (simulated)" if variant in simulated else "")
            line = _mean(runs, "explored_success")
            if line:
                x, mean, low, high = line
                band = (low, high) if len(seeds) > 1 else None
                lines.append(Series(label, COLOURS[variant], x, mean, band=band))
        row.append(Panel(task.replace("_", " "), lines, "iterations", percent=True))
    return _rows(row, "success during PPO" if simulated else "imagined success during PPO")


def imagined_against_simulated(results: Results) -> str | None:
    """What the world models promise of every policy's starts, and what the simulator gives."""
    rows = [
        Comparison(task, policy, found.imagined_success, results.cells[task, policy].rate.value)
        for task, policy, found in _agreement(results)
    ]
    return dumbbells(rows, "imagined against simulated success") if rows else None


def agreement(results: Results) -> TextTable | None:
    """How well classifier and world model know which of a policy's roll-outs succeed."""
    rows = [
        [
            task.replace("_", " "),
            policy.label,
            _format(results.cells[task, policy].rate.value, "{:.0%}"),
            _format(found.imagined_success, "{:.0%}"),
            *(
                f"{_format(precision, '{:.2f}')} / {_format(recall, '{:.2f}')}"
                for precision, recall in (
                    (found.replayed_precision, found.replayed_recall),
                    (found.recognised_precision, found.recognised_recall),
                )
            ),
        ]
        for task, policy, found in _agreement(results)
    ]
    columns = ["simulated", "imagined", "same actions imagined", "classifier on real frames"]
    return {"columns": columns, "rows": rows} if rows else None


def _agreement(results: Results) -> list[tuple[str, PolicyName, Agreement]]:
    """What is known of each task and policy, in the order of the table."""
    keys = [(task, policy) for task in results.tasks for policy in results.policies]
    return [(*key, results.agreement[key]) for key in keys if key in results.agreement]


def rewards(layout: Layout, variants: Sequence[str], tasks: Sequence[str]) -> TextTable | None:
    """Scores of the success classifiers by frames, and by whole windows of play."""
    rows = []
    for task in tasks:
        for variant in variants:
            summary = optional_json(layout.reward(variant) / task / "summary.json")
            if summary:
                pairs = (
                    " / ".join(
                        _format(summary.get(f"{score}_{source}"), "{:.2f}")
                        for score in ("precision", "recall")
                    )
                    for source in ("imagined", "real")
                )
                windows = (
                    _format(summary.get(f"{kind}_windows_imagined"), "{:.0%}")
                    for kind in ("missed", "false_alarm")
                )
                rows.append([task.replace("_", " "), VARIANT_NAMES[variant], *pairs, *windows])
    columns = ["imagined", "real", "windows missed", "false alarms"]
    return {"columns": columns, "rows": rows} if rows else None


def selection(layout: Layout, variants: Sequence[str], tasks: Sequence[str]) -> str | None:
    """Which classifiers saw the evaluation's starts, as a sentence; None where none did."""
    found = [
        variant
        for variant in variants
        for task in tasks
        if (summary := optional_json(layout.reward(variant) / task / "summary.json"))
        and summary.get("calibrated_on") == "validation"
    ]
    if not found:
        return None
    names = " and ".join(VARIANT_NAMES[variant] for variant in dict.fromkeys(found))
    return (
        f"Not entirely held out: epoch and threshold of {len(found)} reward classifiers ({names}) "
        "were chosen on the validation demonstrations, whose first frames are the starts of this "
        "evaluation. What PPO reached with them may be flattered."
    )


def clips(layout: Layout, variants: Sequence[str], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The clips of every task, the expert first."""
    stages = ("bc", *FINETUNED.values())
    places = [("controls", "expert"), *((v, stage) for v in variants for stage in stages)]
    groups = []
    for task in tasks:
        found = []
        for name, stage in places:
            source = data_uri(_clip(layout.evaluation(name), task, stage))
            if source:
                policy = PolicyName(None if name == "controls" else name, stage)
                found.append({"source": source, "label": f"{task}, {policy.label}"})
        groups.append({"task": task.replace("_", " "), "clips": found})
    return groups


def _clip(directory: Path, task: str, stage: str) -> Path:
    return directory / f"{task}-{stage}.webp"


def _lines(
    journals: Mapping[str, Sequence[Mapping[str, Any]]],
    key: str,
    x: str = "step",
    suffix: str = "",
    dashed: bool = False,
) -> list[Series]:
    """A line per variant whose journal has ``key``."""
    lines = []
    for variant, journal in journals.items():
        points = [(record[x], record[key]) for record in journal if record.get(key) is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(Series(VARIANT_NAMES[variant] + suffix, COLOURS[variant], xs, ys, dashed))
    return lines


def _mean(
    runs: Sequence[Sequence[Mapping[str, Any]]], key: str
) -> tuple[list[float], list[float], list[float], list[float]] | None:
    """Steps, mean, lowest and highest value over the runs that have the step."""
    values: dict[float, list[float]] = {}
    for run in runs:
        for record in run:
            if record.get(key) is not None:
                values.setdefault(record["step"], []).append(record[key])
    if not values:
        return None
    steps = sorted(values)
    pick: Callable[[Callable[[list[float]], float]], list[float]] = lambda f: [  # noqa: E731
        f(values[step]) for step in steps
    ]
    return steps, pick(lambda v: sum(v) / len(v)), pick(min), pick(max)


def _row(row: Sequence[Panel], description: str, width: float) -> str | None:
    shown = [panel for panel in row if panel.series]
    return panels(shown, description, width=width) if shown else None


def _rows(row: Sequence[Panel], description: str, per_row: int = 4) -> str | None:
    """Panels in several rows, so that eight tasks stay readable."""
    shown = [panel for panel in row if panel.series]
    if not shown:
        return None
    parts = [shown[start : start + per_row] for start in range(0, len(shown), per_row)]
    width = 2.75 if len(shown) > 3 else 3.4
    return "".join(panels(part, description, width=width) for part in parts)


def _format(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)
