"""Charts of the report as inline SVG that follows the page's light or dark colours."""

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.results import PolicyName, Results

COLOURS = {
    "wam": "#4f6df5",
    "dreamerv2": "#e0853d",
    "expert": "#3f9c74",
    "zero": "#9aa3ad",
}
_LIGHT = {"wam": "#a9b8fa", "dreamerv2": "#f1c49d"}
"""For behaviour cloning beside the full colour of PPO."""

_FIXED = {"currentColor": "#30363d", "var(--line)": "#d0d7de", "var(--muted)": "#6e7781"}
"""Where there is no page that a figure takes its colours from."""

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
    percent: bool = False
    log: bool = False


def colour(policy: PolicyName) -> str:
    """The colour of a policy in every chart and table."""
    if policy.stage == "bc":
        return _LIGHT[policy.variant or ""]
    return COLOURS[policy.variant or policy.stage]


@matplotlib.rc_context(_STYLE)
def success_bars(results: Results) -> Markup | None:
    """Success rate per task and policy, with the intervals of the table; None without any."""
    groups = results.table
    policies = [p for p in results.policies if any(p in rates for rates in groups.values())]
    if not policies:
        return None
    width = 0.84 / len(policies)
    figure = Figure(
        figsize=(min(max(6.4, 0.42 * len(groups) * len(policies)), 11), 3.4), layout="constrained"
    )
    axes = figure.subplots()
    for index, policy in enumerate(policies):
        shown = {n: rates[policy] for n, rates in enumerate(groups.values()) if policy in rates}
        values, low, high = np.array(list(shown.values())).T
        axes.bar(
            np.array(list(shown)) + (index - (len(policies) - 1) / 2) * width,
            values,
            width * 0.9,
            color=colour(policy),
            label=policy.label,
            yerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)],
            error_kw={"ecolor": _FAINT, "elinewidth": 1.1, "capsize": 2.2},
        )
    labels = [textwrap.fill(group.replace("_", " "), 12) for group in groups]
    axes.set_xticks(range(len(groups)), labels)
    axes.tick_params(axis="x", length=0, labelcolor=_TEXT)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside upper left", ncols=len(policies), handlelength=1.0)
    return _svg(figure, "success rate per task and policy with 95 % intervals")


def panels(every_panel: Sequence[Panel], description: str) -> Markup | None:
    """Those that have lines, side by side and at most four in a row; None if none has."""
    shown = [panel for panel in every_panel if panel.series]
    width = 2.75 if len(shown) > 3 else 3.4
    rows = [shown[start : start + 4] for start in range(0, len(shown), 4)]
    return Markup("").join(_row(row, description, width) for row in rows) if rows else None


@matplotlib.rc_context(_STYLE)
def _row(row: Sequence[Panel], description: str, width: float) -> Markup:
    """Line charts with one legend, each ``width`` inches wide."""
    figure = Figure(figsize=(width * len(row), 2.7))
    shown: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(row), squeeze=False)[0], row, strict=True):
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


@matplotlib.rc_context(_STYLE)
def imagined_against_simulated(results: Results) -> Markup | None:
    """From a hollow mark, the success that a world model promises, to a full one, the simulator's.

    A line per task and policy; None without any. A small mark is for what is done in the dream,
    executed in the simulator without looking.
    """
    keys = list(results.agreement)
    if not keys:
        return None
    figure = Figure(figsize=(6.4, 0.8 + 0.27 * len(keys)), layout="constrained")
    axes = figure.subplots()
    for place, (task, policy) in enumerate(keys):
        tint = COLOURS[policy.variant or ""]
        imagined = results.agreement[task, policy].imagined_success
        simulated = results.cells[task, policy].rate.value
        axes.plot([imagined, simulated], [place] * 2, color=tint, alpha=0.4, linewidth=3)
        axes.scatter(imagined, place, s=46, facecolor="none", edgecolor=tint, linewidth=1.6)
        axes.scatter(simulated, place, s=46, color=tint, zorder=3)
        unseen = results.agreement[task, policy].executed_success
        axes.scatter(unseen, place, s=22, marker="D", color=tint, edgecolor="white", zorder=4)
    _name_lines(axes, keys)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.scatter([], [], s=46, facecolor="none", edgecolor=_FAINT, label="imagined")
    axes.scatter([], [], s=22, marker="D", color=_FAINT, label="the same actions, simulated")
    axes.scatter([], [], s=46, color=_FAINT, label="simulated")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2)
    return _svg(figure, "imagined against simulated success")


@matplotlib.rc_context(_STYLE)
def trust(results: Results) -> Markup | None:
    """How well replays in imagination tell success from failure, and how they flatter a policy.

    A line per task and policy; None without any. An area that is not defined has no mark.
    """
    keys = list(results.agreement)
    if not keys:
        return None
    figure = Figure(figsize=(7.6, 1.0 + 0.27 * len(keys)), layout="constrained")
    area, bias = figure.subplots(1, 2, sharey=True)
    for place, key in enumerate(keys):
        found, tint = results.agreement[key], colour(key[1])
        if found.replayed_auc is not None:
            area.scatter(found.replayed_auc, place, s=46, color=tint, zorder=3)
        bias.plot([0, 100 * found.replayed_bias], [place] * 2, color=tint, alpha=0.4, linewidth=3)
        bias.scatter(100 * found.replayed_bias, place, s=46, color=tint, zorder=3)
    area.set_title("Area under ROC")
    area.set_xlim(-0.03, 1.03)
    area.axvline(0.5, color=_FAINT, linestyle=(0, (3, 2)), linewidth=1.2)  # knows nothing
    area.axvspan(0.9, 1.0, color=_LINE, alpha=0.35, linewidth=0)
    bias.set_title("Bias (points)")
    widest = 5 + max(
        10.0, *(abs(100 * found.replayed_bias) for found in results.agreement.values())
    )
    bias.set_xlim(-widest, widest)
    bias.axvspan(-5, 5, color=_LINE, alpha=0.35, linewidth=0)
    for axes in (area, bias):
        _name_lines(axes, keys)
    return _svg(figure, "agreement of imagination and simulator")


def data_address(svg: Markup) -> str:
    """A figure as a ``data:`` address, to be shown anywhere, on white."""
    text = str(svg)
    for css, colour in _FIXED.items():
        text = text.replace(css, colour)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def _name_lines(axes: Axes, keys: Sequence[tuple[str, PolicyName]]) -> None:
    """A line per task and policy from the top down, named at the side, tasks apart."""
    labels = [f"{task.replace('_', ' ')} · {policy.label}" for task, policy in keys]
    axes.set_yticks(range(len(keys)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=_TEXT)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for place in range(1, len(keys)):
        if keys[place][0] != keys[place - 1][0]:
            axes.axhline(place - 0.5, color=_LINE, linewidth=0.8)


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
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    if panel.percent:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))


def _svg(figure: Figure, description: str) -> Markup:
    """The figure as an ``<svg>`` element that scales with its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)
    for stand_in, css in _CSS.items():
        text = text.replace(stand_in, css)
    width = round(figure.get_figwidth() * 96)
    style = f"max-width:{width}px;--least:{width * 6 // 10}px"
    head = f'<svg role="img" aria-label="{description}" style="{style}"'
    return Markup(text.replace("<svg", head, 1))
