"""What a person sees of a running stage: a bar on a terminal, now and then a line in a log."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(highlight=False, soft_wrap=True, emoji=False)

_LOG_EVERY_S = 15.0


@contextlib.contextmanager
def progress(
    description: str, total: int, unit: str = "", done: int = 0
) -> Iterator[Callable[..., None]]:
    """Yield ``advance(count=1, note="")``; ``done`` of ``total`` were done by an earlier run.

    ``note`` is a short text shown behind the bar (losses, rates). Without a terminal a line is
    printed at most every 15 seconds.
    """
    if not sys.stdout.isatty():
        yield _LineProgress(description, total, unit, done).advance
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
    )
    with bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(count: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, advance=count, note=note)
            else:
                bar.update(task, advance=count)

        yield advance


def done(stage: str, message: str) -> None:
    """The clear last line of a stage."""
    console.print(f"[bold green]✔[/] [bold]{stage}[/]  {escape(message)}")


def note(message: str) -> None:
    """One line of information."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """One line that deserves attention."""
    console.print(f"[bold yellow]![/] {escape(message)}")


def figures(result: dict[str, Any], *, as_json: bool) -> None:
    """The figures of a benchmark: one JSON object, or a line each."""
    if as_json:
        console.print(json.dumps(result), markup=False)
        return
    for name, value in result.items():
        console.print(f"{name:32} {value}", markup=False)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")


class _LineProgress:
    def __init__(self, description: str, total: int, unit: str, done: int) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = self._done_before = done
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < _LOG_EVERY_S:
            return
        self._last = now
        rate = (self._done - self._done_before) / (now - self._start)
        left = (self._total - self._done) / rate if rate else float("inf")
        console.print(
            f"{self._description}: {self._done}/{self._total} {self._unit} "
            f"({rate:.1f}/s, {left:.0f} s left) {note}".rstrip(),
            markup=False,
        )
