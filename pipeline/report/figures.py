"""Charts of the report as inline SVG that follows the page's light or dark colours."""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from pipeline.evaluation.results import PolicyName, Results

COLOURS = {
    "wam": "#4f6df5",
    "dreamerv2": "#e0853d",
    "expert": "#3f9c74",
    "zero": "#9aa3ad",
}
_LIGHT = {"wam": "#a9b8fa", "dreamerv2": "#f1c49d"}
"""For behaviour cloning beside the full colour of PPO."""

# Stand-ins that become CSS colours of the page in the finished SVG.
_TEXT, _LINE, _FAINT = "#010203", "#040506", "#070809"
_CSS = {_TEXT: "currentColor", _LINE: "var(--line)", _FAINT: "var(--muted)"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wam",
    "font.size": 10,
    "text.color": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _FAINT,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None
    """Lower and upper edge of a shaded band."""


@dataclass(frozen=True)
class Panel:
    """One chart of a row of charts."""

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str = ""
    percent: bool = False
    log: bool = False


@dataclass(frozen=True)
class Comparison:
    """Success of one policy on one task in imagination and in simulation, where known."""

    task: str
    policy: PolicyName
    imagined: float | None
    simulated: float | None


def colour(policy: PolicyName) -> str:
    """The colour of a policy in every chart and table."""
    if policy.stage == "bc":
        return _LIGHT[policy.variant or ""]
    return COLOURS[policy.variant or policy.stage]


def success_bars(results: Results) -> str:
    """Success rate per task and policy, with the intervals of the table."""
    groups = [*results.tasks, *(["macro average"] if len(results.tasks) > 1 else [])]
    policies = [
        policy
        for policy in results.policies
        if any((task, policy) in results.cells for task in results.tasks)
    ]
    width = 0.84 / max(len(policies), 1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(min(max(6.4, 0.42 * len(groups) * len(policies)), 11), 3.4))
        axes = figure.subplots()
        for index, policy in enumerate(policies):
            shown = [_estimate(results, group, policy) for group in groups]
            places = [
                place + (index - (len(policies) - 1) / 2) * width
                for place, estimate in enumerate(shown)
                if estimate
            ]
            estimates = np.array([estimate for estimate in shown if estimate]).reshape(-1, 3)
            values, low, high = estimates.T
            axes.bar(places, values, width * 0.9, color=colour(policy), label=policy.label)
            axes.errorbar(
                places,
                values,
                yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
                fmt="none",
                ecolor=_FAINT,
                elinewidth=1.1,
                capsize=2.2,
            )
        labels = [textwrap.fill(group.replace("_", " "), 12) for group in groups]
        axes.set_xticks(range(len(groups)), labels)
        axes.tick_params(axis="x", length=0, labelcolor=_TEXT)
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside upper left", ncols=len(policies), handlelength=1.0)
        figure.set_layout_engine("constrained")
        return _svg(figure, "success rate per task and policy with 95 % intervals")


def panels(row: Sequence[Panel], description: str, width: float = 3.35, height: float = 2.7) -> str:
    """Line charts side by side with one legend."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * len(row), height))
        every_axes = figure.subplots(1, len(row), squeeze=False)[0]
        shown: dict[str, Any] = {}
        for axes, panel in zip(every_axes, row, strict=True):
            _draw(axes, panel)
            handles, labels = axes.get_legend_handles_labels()
            shown.update(zip(labels, handles, strict=True))
        if len(shown) > 1:
            figure.legend(
                list(shown.values()),
                list(shown),
                loc="outside upper left",
                ncols=min(len(shown), 5),
                handlelength=1.4,
            )
        figure.set_layout_engine("constrained", w_pad=0.06)
        return _svg(figure, description)


def dumbbells(rows: Sequence[Comparison], description: str) -> str:
    """A line per row from a hollow mark (imagined) to a full one (simulated)."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.8 + 0.27 * len(rows)))
        axes = figure.subplots()
        for place, row in enumerate(rows):
            tint = COLOURS[row.policy.variant or ""]
            if row.imagined is not None and row.simulated is not None:
                ends = [row.imagined, row.simulated]
                axes.plot(ends, [place] * 2, color=tint, alpha=0.4, linewidth=3)
            if row.imagined is not None:
                axes.scatter(
                    row.imagined, place, s=46, facecolor="none", edgecolor=tint, linewidth=1.6
                )
            if row.simulated is not None:
                axes.scatter(row.simulated, place, s=46, color=tint, zorder=3)
            if place and row.task != rows[place - 1].task:
                axes.axhline(place - 0.5, color=_LINE, linewidth=0.8)
        labels = [f"{row.task.replace('_', ' ')} · {row.policy.label}" for row in rows]
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0, labelcolor=_TEXT)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        axes.scatter([], [], s=46, facecolor="none", edgecolor=_FAINT, label="imagined")
        axes.scatter([], [], s=46, color=_FAINT, label="simulated")
        figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2)
        figure.set_layout_engine("constrained")
        return _svg(figure, description)


def _estimate(
    results: Results, group: str, policy: PolicyName
) -> tuple[float, float, float] | None:
    if group in results.tasks:
        cell = results.cells.get((group, policy))
        return cell.rate if cell else None
    return results.macro.get(policy)


def _draw(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        style = (0, (3, 2)) if series.dashed else "solid"
        axes.plot(
            series.x,
            series.y,
            color=series.colour,
            linestyle=style,
            label=series.label,
            marker="o" if len(series.x) == 1 else None,
        )
        if series.band:
            axes.fill_between(series.x, *series.band, color=series.colour, alpha=0.15, linewidth=0)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.percent:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _svg(figure: Figure, description: str) -> str:
    """The figure as an ``<svg>`` element that scales with its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for stand_in, css in _CSS.items():
        text = text.replace(stand_in, css)
    width = round(figure.get_figwidth() * 96)
    style = f"max-width:{width}px;--least:{width * 6 // 10}px"
    return text.replace("<svg", f'<svg role="img" aria-label="{description}" style="{style}"', 1)
