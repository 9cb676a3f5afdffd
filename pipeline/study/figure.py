"""The study at a glance: every difference with its interval, and those of the single seeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import COLOURS
from pipeline.study.tables import ENDPOINTS, pair_name, primary
from wam.reliability.atomic import replacing

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "wam",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "font.size": 10,
}
_DIFFERENCE, _SEED = "#30363d", "#9aa3ad"


@matplotlib.rc_context(_STYLE)
def write_figure(path: Path, summary: Mapping[str, Any]) -> None:
    """Write an SVG of the primary endpoint of every comparison, and of what PPO brings every cell;
    none, without any."""
    rows = [(pair_name(one), one, _DIFFERENCE) for one in primary(summary["differences"])] + [
        (
            f"{one['cell']}: {ENDPOINTS['gain']}",
            one,
            COLOURS[summary["cells"][one["cell"]]["variant"]],
        )
        for one in summary["gains"]
    ]
    if not rows:
        return
    figure = Figure(figsize=(8.5, 1.1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, one, colour) in enumerate(rows):
        _draw(axes, -place, one, colour)
    axes.axvline(0, color=_SEED, linewidth=1, zorder=0)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "points of success: mean and 95 % over seeds, each alone, uncorrected; a dot per seed"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw(axes: Axes, height: float, one: Mapping[str, Any], colour: str) -> None:
    """A difference: what the seeds say together, below it each of them, and the figures beside."""
    value, low, high = (100 * one["difference"][key] for key in ("value", "low", "high"))
    seeds = [100 * difference for difference in one["by_seed"].values()]
    axes.scatter(seeds, [height - 0.22] * len(seeds), color=_SEED, s=10, zorder=2)
    axes.plot([low, high], [height, height], color=colour, linewidth=2, zorder=3)
    axes.scatter([value], [height], color=colour, s=36, zorder=4)
    axes.annotate(
        f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
        (1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(8, 0),
        textcoords="offset points",
        verticalalignment="center",
        annotation_clip=False,
    )
