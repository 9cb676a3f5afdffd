"""Parts of an artifact: who makes one has it for itself."""

import threading
from pathlib import Path

import pytest

from pipeline.artifacts.parts import Part, Place, _make_part


def test_a_part_that_is_being_made_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place("open_drawer", tmp_path / "part", tmp_path / "work" / "open_drawer")
    begun, may_end = threading.Event(), threading.Event()
    order = []

    def slow(part: Part) -> None:
        begun.set()
        assert may_end.wait(20)
        order.append("first")

    def quick(part: Part) -> None:
        order.append("second")

    def make(job: object) -> None:
        _make_part(job, place, lambda name, count, note: None)  # type: ignore[arg-type]

    first = threading.Thread(target=make, args=(slow,))
    second = threading.Thread(target=make, args=(quick,))
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    may_end.set()
    first.join()
    second.join()
    assert order == ["first", "second"]
    assert "another process is building" in capsys.readouterr().out
