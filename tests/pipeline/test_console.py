"""What is printed is what was said: no part of a message is taken for markup."""

import pytest

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
