"""What a person sees of a running stage: a bar on a terminal, now and then a line in a log."""

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
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

_LOG_EVERY_S = 15.0
# What a terminal obeys (C0 without tab and newline, DEL, C1), and what turns a line around.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """``text`` with its control characters spelled out, ESC as ``\\x1b``.

    Names of files, keys and tasks may come from anywhere.
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class _PlainConsole(Console):
    """Prints strings, also those in tables, as they are: no markup, no control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


console = _PlainConsole(highlight=False, soft_wrap=True, emoji=False, markup=False)

# Where output is ASCII, a finished stage must not fail at its check mark.
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="backslashreplace")


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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
    )
    with bar:
        task = bar.add_task(visible(description), total=total, completed=done, note="")

        def advance(count: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, advance=count, note=visible(note))
            else:
                bar.update(task, advance=count)

        yield advance


def done(stage: str, message: str) -> None:
    """The clear last line of a stage."""
    mark = ("✔", "bold green")
    console.print(Text.assemble(mark, " ", (visible(stage), "bold"), "  ", visible(message)))


def note(message: str) -> None:
    """One line of information."""
    console.print(message)


def warn(message: str) -> None:
    """One line that deserves attention."""
    titled("!", message, style="bold yellow", gap=" ")


def error(message: str) -> None:
    """Why the command fails; on standard error where standard output cannot be written to."""
    try:
        titled("error", message, style="bold red", gap=" ")
    except OSError:
        sys.stderr.write(f"error {visible(message)}\n")
        # What is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def titled(title: str, message: str = "", *, style: str = "bold", gap: str = "  ") -> None:
    """A line that begins with ``title`` in ``style``."""
    console.print(Text.assemble((visible(title), style), gap, visible(message)))


def figures(result: dict[str, Any], *, as_json: bool) -> None:
    """The figures of a benchmark: one JSON object, or a line each."""
    if as_json:
        console.print(json.dumps(result))
        return
    for name, value in result.items():
        console.print(f"{name:32} {value}")


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
            f"({rate:.1f}/s, {left:.0f} s left) {note}".rstrip()
        )
