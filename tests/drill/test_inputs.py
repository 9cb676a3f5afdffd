"""Every fifth bad input and hostile file; ``make drill`` tries them all."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill.inputs import cases


def test_bad_inputs_end_in_a_sentence() -> None:
    # A process of its own: it forks, which the threads of other tests would not survive.
    tried = subprocess.run(
        [sys.executable, "-m", "tests.drill.inputs", "5"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


@pytest.mark.parametrize(("kind", "least"), [("bad input", 60), ("hostile payload", 25)])
def test_there_are_many(kind: str, least: int) -> None:
    assert sum(case.kind == kind for case in cases()) >= least
