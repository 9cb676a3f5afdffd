"""What benchmarks share: their options, and contestants that take turns."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import console

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"

Rates = dict[str, list[float]]
"""Of each contestant in every round."""


def options(documentation: str, rounds: int = 5) -> argparse.ArgumentParser:
    """``--rounds`` and ``--json``; the description is the first line of ``documentation``."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"repetitions (default: {rounds})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def take_turns(
    contestants: dict[str, Callable[[], int]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """How many per second each does in every round; a contestant returns how many it did."""
    rates: Rates = {name: [] for name in contestants}
    title = ", ".join(contestants)
    with console.progress(title, (rounds + 1) * len(contestants), "rounds") as advance:
        for turn in range(rounds + 1):
            for name, run in contestants.items():
                start = clock()
                count = run()
                if turn:  # the first round warms up
                    rates[name].append(count / (clock() - start))
                advance()
    return rates


def ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 2)
