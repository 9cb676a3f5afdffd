"""Programs that are interrupted, and what they leave."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

_PATIENCE_S = 60

Whom = Literal["group", "parent", "worker"]


def interrupted(
    command: Sequence[str], signum: signal.Signals, *, num_workers: int, whom: Whom, cwd: Path
) -> tuple[int, str, str]:
    """Exit status and output of a Python program that got a signal with its workers there.

    A ``group`` gets it as from a terminal. Asserts that no process is left.
    """
    # What a shell runs in the background ignores SIGINT, and would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        signal.signal(signal.SIGINT, before)
        while len(workers := children(process.pid)) < num_workers:
            assert process.poll() is None
            time.sleep(0.02)
        if whom == "group":
            os.killpg(process.pid, signum)
        else:
            os.kill(process.pid if whom == "parent" else workers[-1], signum)
        try:
            output, errors = process.communicate(timeout=_PATIENCE_S)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + _PATIENCE_S
    while left := [worker for worker in workers if _is_running(worker)]:
        assert time.monotonic() < end, f"{left} are still running"
        time.sleep(0.02)
    return process.returncode, output, errors


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[str]]:
    """A process, leader of its group, that would sleep for a minute and ends by a signal."""
    # What a shell runs in the background ignores SIGINT, and would hand that on.
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(); "
    command = [sys.executable, "-uc", f"{program}time.sleep({_PATIENCE_S})"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def children(pid: int) -> list[int]:
    """Without Python's resource tracker, which ends by itself."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [
            int(child)
            for child in found
            if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
