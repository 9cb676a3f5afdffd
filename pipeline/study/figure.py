"""The study at a glance: every pair of seeds, and the mean difference with its interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS
from wam.reliability.atomic import replacing

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "wam",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "font.size": 10,
}


@matplotlib.rc_context(_STYLE)
def write_figure(path: Path, summary: Mapping[str, Any], endpoint: str) -> None:
    """Write an SVG of a panel per comparison of ``endpoint``, a share; none, without any."""
    compared = [one for one in summary["differences"] if one["endpoint"] == endpoint]
    if not compared:
        return
    figure = Figure(figsize=(3.6 * len(compared), 3.2), layout="constrained")
    panels = figure.subplots(1, len(compared), squeeze=False, sharey=True)[0]
    for axes, one in zip(panels, compared, strict=True):
        _draw(axes, one, summary["cells"], endpoint)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw(axes: Axes, one: Mapping[str, Any], cells: Mapping[str, Any], endpoint: str) -> None:
    """A line per seed from the second cell to the first."""
    names = one["second"], one["first"]
    sides = [cells[name]["figures"][endpoint] for name in names]
    for seed in sides[0]:
        if seed in sides[1]:
            axes.plot([0, 1], [100 * side[seed] for side in sides], color="#9aa3ad", linewidth=1)
    for place, (name, side) in enumerate(zip(names, sides, strict=True)):
        values = [100 * value for value in side.values()]
        axes.scatter([place] * len(values), values, color=COLOURS[cells[name]["variant"]], zorder=3)
        mean = sum(values) / len(values)
        axes.plot([place - 0.12, place + 0.12], [mean, mean], color="#30363d", linewidth=2)
    axes.set_xticks([0, 1], [name.replace("_", "\n", 1) for name in names])
    axes.set_xlim(-0.4, 1.4)
    axes.set_ylabel("success %, a dot per seed")
    value, low, high = (100 * one["difference"][key] for key in ("value", "low", "high"))
    axes.set_title(f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]")
