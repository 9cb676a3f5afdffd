"""The command that measures the scripted experts."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pybullet")

COMMAND = Path(__file__).parents[2] / "benchmarks" / "experts.py"
spec = importlib.util.spec_from_file_location("experts_benchmark", COMMAND)
assert spec is not None and spec.loader is not None
experts = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = experts
spec.loader.exec_module(experts)


def test_attempt_is_a_function_of_its_seed() -> None:
    several = experts.attempt(experts.Job("D", "turn_on_led", range(4, 7), 0.1, None))
    assert all(0 < steps <= 64 for steps in several)
    assert experts.attempt(experts.Job("D", "turn_on_led", range(5, 6), 0.1, None)) == several[1:2]


def test_summary() -> None:
    row = experts.summary("D", "open_drawer", range(10, 14), [12, None, 30, 14])
    assert (row.starts, row.solved, row.failed_seeds) == (4, 3, [11])
    assert (row.median_steps, row.max_steps) == (14, 30)
    # Wilson's interval of 3 in 4.
    assert (row.low, row.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)


def test_summary_without_a_success() -> None:
    row = experts.summary("D", "open_drawer", range(2), [None, None])
    assert (row.solved, row.median_steps, row.max_steps) == (0, None, None)


@pytest.mark.slow
def test_missing_assets_are_named() -> None:
    result = subprocess.run(
        [sys.executable, COMMAND, "--assets", "/nowhere", "--starts", "1", "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "/nowhere" in result.stderr and "Traceback" not in result.stderr
