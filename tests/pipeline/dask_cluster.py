"""Schedulers and workers as processes of their own, which a test may kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Cluster:
    """A scheduler and workers, each a process group of its own."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")

    @property
    def address(self) -> str:
        while not self._file.exists() or not self._file.read_text():
            time.sleep(0.05)
        return str(json.loads(self._file.read_text())["address"])

    def add_worker(self) -> None:
        self._start("worker", "--nthreads", "1", "--no-dashboard")

    def kill(self, number: int) -> None:
        """The scheduler is number 0."""
        os.killpg(self._processes[number].pid, signal.SIGKILL)
        self._processes[number].wait()

    def close(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is None:
                self.kill(number)

    def _start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(self._file)]
        self._processes.append(
            subprocess.Popen(
                command,
                cwd=self._file.parent,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()
