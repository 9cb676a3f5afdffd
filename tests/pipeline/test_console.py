"""What is printed is what was said: no part of a message is taken for markup."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from pipeline import console

MESSAGE = "dvclive is not installed (wam[pipeline] has it); expected keys [red] or :smile:"


def test_messages_keep_their_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console.note(MESSAGE)
    console.warn(MESSAGE)
    console.done("convert", MESSAGE)
    console.figures({"name": MESSAGE}, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.endswith(MESSAGE)


def test_progress_keeps_its_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LOG_EVERY_S", 0.0)
    with console.progress("training [red]", 2, "updates") as advance:
        advance(1, "loss [bold] 3")
    assert "training [red]: 1/2 updates" in (line := capsys.readouterr().out)
    assert line.rstrip().endswith("loss [bold] 3")


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\x07\x9b2Jb", "a\x00\rb", "a\x7fb", "a\u202eb"])
def test_control_characters_are_shown_not_obeyed(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LOG_EVERY_S", 0.0)
    console.note(text)
    console.warn(text)
    console.done(text, text)
    console.titled(text, text)
    console.error(text)
    table = Table(text, title=text)
    table.add_row(text)
    console.console.print(table)
    with console.progress(text, 2, "updates") as advance:
        advance(1, text)
    printed = capsys.readouterr().out
    assert not set(text) & set(printed) - set("ab[31m2J")
    assert printed.count(ascii(text)[1:-1]) == 12


def test_a_bar_on_a_terminal_shows_control_characters_and_brackets() -> None:
    code = (
        "from pipeline import console\n"
        "with console.progress('[/red]\\x1b]0;title\\x07', 2, 'updates') as advance:\n"
        "    advance(2, '[/red]\\x1b[2J')\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    os.close(theirs)
    printed = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(ours, 4096):
            printed += piece
    os.close(ours)
    assert rb"[/red]\x1b]0;title\x07" in printed
    assert rb"[/red]\x1b[2J" in printed
    assert b"\x1b]0;title" not in printed
    assert b"\x1b[2J" not in printed


def test_output_that_is_ascii_ends_no_stage() -> None:
    code = "from pipeline import console; console.done('convert', 'a → b \\udcff')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert result.stdout == rb"\u2714 convert  a \u2192 b \udcff" + b"\n"
    assert result.stderr == b""


def test_an_error_is_told_where_output_has_no_room() -> None:
    code = (
        "from pipeline import console\n"
        "try:\n"
        "    console.note('result')\n"
        "except OSError as error:\n"
        "    console.error(f'{error.strerror}: a\\x1bb')\n"
    )
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=True
        )
    assert result.stderr == rb"error No space left on device: a\x1bb" + b"\n"


def test_a_reader_that_goes_away_gives_no_traceback() -> None:
    code = "from pipeline import console\nwhile True:\n    console.note('a line of a long table')\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
