"""Training that is killed, and training on several processes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from wam.training.checkpoint import Checkpoints
from wam.training.journal import Journal
from wam.training.trainer import CHECKPOINTS, METRICS_FILE, VALIDATION_FILE

REPOSITORY = Path(__file__).parents[3]
MODULE = "tests.wam.training.training_process"


def command(directory: Path, updates: int, *launcher: str) -> list[str]:
    directory.mkdir(exist_ok=True)
    return [sys.executable, *launcher, "-m", MODULE, str(directory), str(updates)]


def run(directory: Path, updates: int, *launcher: str) -> None:
    subprocess.run(command(directory, updates, *launcher), cwd=REPOSITORY, check=True, timeout=300)


def kill_after(directory: Path, updates: int, records: int) -> None:
    """Start a training and kill it when it has written so many records."""
    process = subprocess.Popen(command(directory, updates), cwd=REPOSITORY)
    deadline = time.monotonic() + 120
    while len(Journal(directory / METRICS_FILE).records()) < records:
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def state(directory: Path) -> dict:
    saved = Checkpoints(directory / CHECKPOINTS, keep=2).latest()
    assert saved is not None
    return saved


def records(directory: Path, file: str = METRICS_FILE) -> list[dict]:
    return Journal(directory / file).records()


def assert_equal(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys()
        for name, value in expected.items():
            if name != "seconds":
                assert_equal(found[name], value)
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for left, right in zip(found, expected, strict=True):
            assert_equal(left, right)
    elif isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and torch.equal(found, expected)
    else:
        assert found == expected


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, 40)
    for killed_at in (4, 17, 30):
        kill_after(parts, 40, killed_at)
    run(parts, 40)
    assert_equal(state(parts), state(whole))
    assert records(parts) == records(whole)
    assert records(parts, VALIDATION_FILE) == records(whole, VALIDATION_FILE)
    assert (parts / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(alone, 8)
    run(together, 8, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for expected, found in zip(records(alone), records(together), strict=True):
        for name, value in expected.items():
            # Counts of pairs differ between the ranks, so this is no mean of their accuracies.
            if name != "gripper_accuracy":
                assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    expected, found = state(alone), state(together)
    assert found["state"]["deter"].shape == expected["state"]["deter"].shape
    torch.testing.assert_close(found["state"], expected["state"], rtol=1e-3, atol=1e-4)


def test_a_run_may_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    run(tmp_path / "alone", 8)
    mixed = tmp_path / "mixed"
    run(mixed, 4)
    run(mixed, 8, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    last = [records(directory)[-1] for directory in (mixed, tmp_path / "alone")]
    assert last[0]["step"] == last[1]["step"] == 8
    assert last[0]["loss"] == pytest.approx(last[1]["loss"], rel=1e-3)
