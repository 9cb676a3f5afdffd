"""What is refused among the odd settings; ``make drill`` tries those that stages live with, too."""

import subprocess
import sys
from pathlib import Path

from tests.drill.settings import ACCEPTED, REFUSED


def test_odd_settings_are_refused_by_name() -> None:
    # A process of its own: it forks, which the threads of other tests would not survive.
    tried = subprocess.run(
        [sys.executable, "-m", "tests.drill.settings"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_no_case_is_there_twice() -> None:
    cases = [(case.key, case.value, case.command) for case in (*REFUSED, *ACCEPTED)]
    assert len(cases) == len(set(cases)) >= 150
