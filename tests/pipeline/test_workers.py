"""Clusters that fail: with real schedulers and workers, of which some are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
import pytest

from pipeline import workers
from pipeline.params import Convert, load_profile
from tests.pipeline.dask_cluster import Cluster, cluster
from wam.errors import WamError

REPOSITORY = Path(__file__).parents[2]

__all__ = ["cluster"]  # a fixture

pytestmark = pytest.mark.slow


@pytest.fixture
def settings() -> Convert:
    return load_profile("ci", REPOSITORY / "params.yaml").convert


def sleeps(settings: Convert, address: str | None, count: int) -> Iterator[Any]:
    with workers.job_runner(replace(settings, dask_address=address)) as run:
        yield from run(time.sleep, [0.1] * count)


def test_a_scheduler_without_workers_is_told_and_given_up(
    settings: Convert,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = cluster.address
    monkeypatch.setattr(workers, "NOTICE_AFTER_S", 2.0)
    monkeypatch.setattr(workers, "NO_WORKER_S", 4.0)
    with pytest.raises(WamError, match=r"no Dask worker .*dask_address to null"):
        list(sleeps(settings, address, 3))
    assert f"waiting for Dask workers of {address}" in capsys.readouterr().out


def test_workers_may_come_late_and_die(settings: Convert, cluster: Cluster) -> None:
    cluster.add_worker()
    cluster.add_worker()
    results = sleeps(settings, cluster.address, 40)
    next(results)
    cluster.kill(1)
    assert len(list(results)) == 39


def test_no_worker_is_given_a_job_while_it_has_one(settings: Convert) -> None:
    """A job that is given to a busy worker may wait there while others are idle."""
    given, most = 0, 0
    with (
        workers.scheduler(settings) as address,
        distributed.Client(address) as client,
    ):

        def submit(number: int) -> Any:
            nonlocal given, most
            given += 1
            most = max(most, given)
            return client.submit(abs, number, pure=False)

        for _ in workers.gather(client, submit, range(10)):
            given -= 1
    assert (given, most) == (0, settings.workers)


def test_a_scheduler_that_dies_is_one_sentence(settings: Convert, cluster: Cluster) -> None:
    cluster.add_worker()
    address = cluster.address
    results = sleeps(settings, address, 40)
    next(results)
    cluster.kill(0)
    with pytest.raises(WamError, match=r"lost the Dask scheduler at tcp.*again to go on"):
        list(results)
    with pytest.raises(WamError, match=r"convert\.dask_address: no Dask scheduler answers"):
        list(sleeps(settings, address, 1))


def test_workers_that_do_not_start_are_an_error(settings: Convert, tmp_path: Path) -> None:
    preload = tmp_path / "die.py"
    preload.write_text("import os; os._exit(3)")
    with (
        dask.config.set({"distributed.worker.preload": [str(preload)]}),
        pytest.raises(WamError, match=r"Dask workers do not start .*convert\.workers is 2"),
    ):
        list(sleeps(settings, None, 3))


def test_what_the_system_refuses_a_job_arrives_as_it_is(settings: Convert, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with (
        pytest.raises(FileNotFoundError) as caught,
        workers.job_runner(settings) as run,
    ):
        list(run(Path.read_bytes, [missing, missing]))
    assert caught.value.filename == str(missing)


SCRIPT = """
import time
from pathlib import Path
from pipeline import workers
from pipeline.exit_codes import exit_on_error
from pipeline.params import load_profile

def body():
    with workers.job_runner(load_profile("ci", Path("params.yaml")).convert) as run:
        for _ in run(time.sleep, [0.1] * 1000):
            print("done", flush=True)

if __name__ == "__main__":
    exit_on_error(body)
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_is_one_line_and_leaves_none(
    signum: int, status: int, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(process.pid, signum)
    lines = [line for line in process.stdout.read().splitlines() if line != "done"]
    assert process.wait() == status
    assert lines == ["interrupted  run the same command again to go on"]
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
