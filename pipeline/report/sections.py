"""The parts of the page that come from training and from roll-outs: curves, pictures, tables."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

from markupsafe import Markup

from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import SUMMARY
from pipeline.evaluation.results import (
    FILMED,
    FINETUNED,
    VARIANT_NAMES,
    Agreement,
    PolicyName,
    Results,
)
from pipeline.params import Profile
from pipeline.report import facts
from pipeline.report.figures import COLOURS, Panel, Series, panels
from pipeline.report.sources import TextTable, formatted, images, optional_json
from wam.config import CAMERA_NAMES, VARIANTS
from wam.training.journal import Journal

_JOURNAL = "metrics.jsonl"
_MEASURES = (
    ("open_loop_psnr", "PSNR open loop", "{:.2f} dB"),
    ("posterior_psnr", "PSNR filtered", "{:.2f} dB"),
    ("kl", "KL posterior to prior", "{:.2f} nats"),
    ("id_mae", "action error of the inverse dynamics", "{:.3f}"),
    ("gripper_accuracy", "gripper command recognised", "{:.1%}"),
    ("updates", "updates", "{:,}"),
    ("frames", "frames seen", "{:,}"),
)

_TELLS_APART, _FAIR = 0.7, 0.1
"""Area under ROC and bias from which on a dream is pointed out."""

_Runs = Sequence[Sequence[Mapping[str, Any]]]
"""The records of trainings that differ in their seed alone."""


def world_model_curves(layout: Layout) -> Markup | None:
    """Training curves of the world models; None without any."""
    runs = {v: [Journal(layout.world_model(v) / _JOURNAL).records()] for v in VARIANTS}
    row = [
        Panel("Reconstruction loss", _lines(runs, "image_loss"), "updates", log=True),
        Panel("KL (nats)", _lines(runs, "kl"), "updates"),
        Panel("Inverse-dynamics error", _lines(runs, "action_loss"), "updates"),
        Panel("PSNR, static camera (dB)", _lines(runs, "psnr_static"), "updates"),
    ]
    return panels(row, "learning curves of the world models")


def validation(layout: Layout) -> TextTable:
    """The world models on held-out play."""
    summaries = {v: optional_json(layout.world_model(v) / SUMMARY) for v in VARIANTS}
    found = {VARIANT_NAMES[v]: summary for v, summary in summaries.items() if summary}
    return [
        {"measure": label, **{name: formatted(s.get(key), form) for name, s in found.items()}}
        for key, label, form in _MEASURES
        if any(key in summary for summary in found.values())
    ]


def films(layout: Layout) -> dict[str, dict[str, str]]:
    """Film strips by world model and camera."""
    return {
        VARIANT_NAMES[v]: images({c: layout.world_model(v) / f"film_{c}.png" for c in CAMERA_NAMES})
        for v in VARIANTS
    }


def cloning(layout: Layout, tasks: Sequence[str]) -> Markup | None:
    """Loss of behaviour cloning, a panel per task."""
    row = []
    for task in tasks:
        runs = {v: [Journal(layout.policy(v) / task / _JOURNAL).records()] for v in VARIANTS}
        lines = [
            *_lines(runs, "train_loss"),
            *_lines(runs, "validation_loss", suffix=", held out", dashed=True),
        ]
        row.append(Panel(task.replace("_", " "), lines, "updates", log=True))
    return panels(row, "behaviour-cloning loss")


def finetuning(layout: Layout, tasks: Sequence[str], seeds: Sequence[int]) -> Markup | None:
    """Explored success per PPO iteration, a panel per task; mean and range of the seeds.

    Imagined, but simulated and named so where a variant was fine-tuned in the simulator.
    """
    simulated = facts.tuned_in_simulator(layout)
    row = []
    for task in tasks:
        lines = []
        for variant in VARIANTS:
            places = [layout.finetune(variant) / task / f"seed-{seed}" for seed in seeds]
            runs = {variant: [Journal(place / _JOURNAL).records() for place in places]}
            suffix = " (simulated)" if variant in simulated else ""
            lines += _lines(runs, "explored_success", suffix)
        row.append(Panel(task.replace("_", " "), lines, "iterations", percent=True))
    return panels(row, "success during PPO" if simulated else "imagined success during PPO")


def looks(profile: Profile) -> str:
    """Which frames policies looked at."""
    most = profile.evaluate.look_every

    def words(every: int) -> str:
        if every == 1:
            return "with every frame seen"
        return f"with a look every {every} frames" if every else "with the first frame seen alone"

    told = [
        f"{task.replace('_', ' ')}: {words(every)}"
        for task in profile.tasks
        if (every := profile.evaluate.looks_of(task)) != most
    ]
    return words(most) + (f" ({'; '.join(told)})" if told else "")


def agreement(results: Results) -> TextTable:
    """How well classifier and world model know which of a policy's roll-outs succeed."""
    return [
        {
            "task": task.replace("_", " "),
            "policy": policy.label,
            "simulated": f"{results.cells[task, policy].rate.value:.0%}",
            "imagined": f"{found.imagined_success:.0%}",
            "done unseen": f"{found.executed_success:.0%}",
            "true dreams": formatted(found.dreams_true, "{:.0%}"),
            "area under ROC": formatted(found.replayed_auc, "{:.2f}"),
            "balanced accuracy": formatted(found.replayed_balanced_accuracy, "{:.2f}"),
            "bias": f"{100 * found.replayed_bias:+.0f}",
            "phantom moves": formatted(found.phantom_moves, "{:.0%}"),
            "false alarms": formatted(found.false_alarms, "{:.0%}"),
            "misses": formatted(found.misses, "{:.0%}"),
            "classifier on real frames": _pair(found.recognised_precision, found.recognised_recall),
            "look out": _distrust(found),
        }
        for (task, policy), found in results.agreement.items()
    ]


def _distrust(found: Agreement) -> str:
    """Why this dream's verdict is not the simulator's, if so."""
    reasons = []
    if found.replayed_auc is not None and found.replayed_auc < _TELLS_APART:
        reasons.append("cannot tell successes from failures")
    if abs(found.replayed_bias) > _FAIR:
        reasons.append("dreams too well" if found.replayed_bias > 0 else "dreams too badly")
    return "; ".join(reasons)


def rewards(layout: Layout, tasks: Sequence[str], least_precision: float) -> TextTable:
    """Scores of the success classifiers by frames, and by whole windows of play."""

    def warning(precision: float | None) -> str:
        fools = precision is None or precision < least_precision
        return f"imagined precision below {least_precision:.0%}: PPO may fool it" if fools else ""

    return [
        {
            "task": task.replace("_", " "),
            "world model": VARIANT_NAMES[variant],
            "imagined": _pair(found.get("precision_imagined"), found.get("recall_imagined")),
            "real": _pair(found.get("precision_real"), found.get("recall_real")),
            "windows missed": formatted(found.get("missed_windows_imagined"), "{:.0%}"),
            "false alarms": formatted(found.get("false_alarm_windows_imagined"), "{:.0%}"),
            "look out": warning(found.get("precision_imagined")),
        }
        for task, variant, found in _classifiers(layout, tasks)
    ]


def selection(layout: Layout, tasks: Sequence[str]) -> str | None:
    """Which classifiers saw the evaluation's starts, as a sentence; None where none did."""
    chosen = [
        variant
        for _, variant, found in _classifiers(layout, tasks)
        if found.get("calibrated_on") == "validation"
    ]
    if not chosen:
        return None
    names = " and ".join(VARIANT_NAMES[variant] for variant in VARIANTS if variant in chosen)
    return (
        f"Not entirely held out: epoch and threshold of {len(chosen)} reward classifiers ({names}) "
        "were chosen on the validation demonstrations, whose first frames are the starts of this "
        "evaluation. What PPO reached with them may be flattered."
    )


def clips(layout: Layout, tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Clips by task, and policy with what is filmed, the expert first."""
    policies = [
        PolicyName(None, "expert"),
        *(PolicyName(v, stage) for v in VARIANTS for stage in ("bc", *FINETUNED.values())),
    ]
    return {
        task: images(
            {
                f"{p.label}, {filmed}": layout.evaluation(p.variant or "controls")
                / f"{task}-{p.stage}{suffix}.webp"
                for filmed, suffix in FILMED.items()
                for p in policies
            }
        )
        for task in tasks
    }


def _lines(
    variants: Mapping[str, _Runs], key: str, suffix: str = "", dashed: bool = False
) -> list[Series]:
    """A line per variant that recorded ``key``: the mean, in a band from least to most.

    Of every step over the runs that have it.
    """
    lines = []
    for variant, runs in variants.items():
        values: dict[float, list[float]] = defaultdict(list)
        for record in chain.from_iterable(runs):
            if record.get(key) is not None:
                values[record["step"]].append(record[key])
        if values:
            steps = sorted(values)
            low, mean, high = ([f(values[step]) for step in steps] for f in (min, fmean, max))
            band = (low, high) if len(runs) > 1 else None
            label = VARIANT_NAMES[variant] + suffix
            lines.append(Series(label, COLOURS[variant], steps, mean, dashed, band))
    return lines


def _classifiers(layout: Layout, tasks: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Task, variant and summary of every success classifier."""
    for task in tasks:
        for variant in VARIANTS:
            if found := optional_json(layout.reward(variant) / task / SUMMARY):
                yield task, variant, found


def _pair(precision: float | None, recall: float | None) -> str:
    return f"{formatted(precision, '{:.2f}')} / {formatted(recall, '{:.2f}')}"
