"""What benchmarks share, and that each of them can be asked what it does."""

import importlib
import sys
from pathlib import Path

import pytest

import turns

DIRECTORY = Path(turns.__file__).parent
COMMANDS = [path.stem for path in sorted(DIRECTORY.glob("*.py")) if "_parser()" in path.read_text()]


def test_the_first_round_warms_up_and_contestants_alternate() -> None:
    time_s = 0.0
    order = []

    def contestant(name: str, seconds: float) -> int:
        nonlocal time_s
        order.append(name)
        time_s += seconds
        return 12

    rates = turns.take_turns(
        {"slow": lambda: contestant("slow", 4.0), "fast": lambda: contestant("fast", 2.0)},
        2,
        lambda: time_s,
    )
    assert order == ["slow", "fast"] * 3
    assert rates == {"slow": [3.0, 3.0], "fast": [6.0, 6.0]}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_says_what_it_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("experts", "simulator"):
        pytest.importorskip("pybullet")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out
