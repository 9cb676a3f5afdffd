"""What the paper reports on CALVIN (arXiv:2603.28955; docs/algorithm.md 7.2), to stand beside."""

from collections.abc import Sequence

from pipeline.report.sources import TextTable

PAPER = "https://arxiv.org/abs/2603.28955"
_COUNTS = {
    "open_drawer": (30, 22, 29, 16),
    "close_drawer": (29, 26, 28, 17),
    "move_slider_left": (32, 22, 28, 16),
    "move_slider_right": (29, 24, 26, 15),
    "turn_on_lightbulb": (33, 17, 33, 14),
    "turn_off_lightbulb": (29, 5, 22, 1),
    "turn_on_led": (29, 12, 28, 13),
    "turn_off_led": (32, 22, 32, 20),
}
"""Starts, and successes of WAM's clone, of WAM after PPO and of DiWA's clone."""
_MEANS = ("61.7 %", "92.8 %", "45.8 %", "79.8 %")
"""Of all eight tasks, as printed; DiWA after PPO the paper does not have by task."""
_COLUMNS = ("WAM BC", "WAM PPO", "DiWA BC", "DiWA PPO")


def published(tasks: Sequence[str]) -> TextTable:
    """The paper's success rates in % for those of ``tasks`` that it has, and its mean of eight."""
    rows = [
        (task.replace("_", " "), *(_rate(count, starts) for count in successes), "-")
        for task, (starts, *successes) in _COUNTS.items()
        if task in tasks
    ]
    header = ("task", *_COLUMNS)
    return [dict(zip(header, row, strict=True)) for row in (*rows, ("mean of all eight", *_MEANS))]


def _rate(successes: int, starts: int) -> str:
    return f"{100 * successes / starts:.1f} % ({successes}/{starts})"
