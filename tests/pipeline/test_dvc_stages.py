"""Stages run as soon as they can, side by side, and no sooner."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.dvc_stages import (
    chosen_stages,
    dvc_environment,
    interrupt,
    reproduce,
    run_in_order,
    shares,
    stage_graph,
    turn,
    without_tasks,
)
from tests.processes import sleeping
from wam.errors import WamError

DIAMOND = {
    "top": frozenset[str](),
    "left": frozenset({"top"}),
    "right": frozenset({"top"}),
    "bottom": frozenset({"left", "right"}),
}


def never() -> None:
    pytest.fail("nothing is to be stopped")


def test_a_stage_needs_what_makes_its_dependencies() -> None:
    graph = stage_graph("ci")
    names = list(graph)
    assert names[0] == "collect@ci"
    assert names[-1] == "report@ci"
    for name, needed in graph.items():
        assert all(names.index(other) < names.index(name) for other in needed)
    assert graph["collect@ci"] == set()
    assert graph["convert@ci"] == {"index@ci"}
    assert graph["featurize@ci-wam"] == {"extract@ci", "convert@ci", "train_world_model@ci-wam"}
    assert not any("dreamerv2" in other for other in graph["finetune@ci-wam"])
    assert graph["report@ci"] >= {"evaluate@ci-wam", "evaluate@ci-dreamerv2", "export@ci"}


def test_a_profile_that_dvc_does_not_know_is_named() -> None:
    with pytest.raises(WamError, match="profiles does not list 'mine'"):
        stage_graph("mine")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("convert", ["convert@demo"]),
        ("finetune", ["finetune@demo-wam", "finetune@demo-dreamerv2"]),
        ("finetune@demo-wam", ["finetune@demo-wam"]),
    ],
)
def test_one_stage_can_be_chosen(only: str, expected: list[str]) -> None:
    graph = chosen_stages("demo", only)
    assert list(graph) == expected
    assert not any(graph.values())


def test_without_tasks_there_are_stores_and_world_models() -> None:
    assert list(without_tasks(stage_graph("paper"))) == [
        "collect@paper",
        "index@paper",
        "convert@paper",
        "export@paper",
        "train_world_model@paper-wam",
        "train_world_model@paper-dreamerv2",
        "evaluate_world_model@paper",
    ]


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(WamError, match="stage 'convrt' is not in"):
        chosen_stages("demo", "convrt")


def test_a_stage_without_its_inputs_names_what_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(root / name, tmp_path)
    for name in ("pipeline", "wam"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    dvc = [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
    subprocess.run(dvc, check=True, env=dvc_environment())
    assert reproduce("featurize@ci-wam", lambda line: None) == (
        "stage featurize@ci-wam needs what is not there: data/ci/demos, data/ci/store, "
        "data/ci/world_model/wam; first: extract@ci, convert@ci, train_world_model@ci-wam"
    )
    (tmp_path / "data/ci").mkdir(parents=True)
    (tmp_path / "data/ci/index").write_text("")
    told = reproduce("convert@ci", lambda line: None)
    assert told is not None
    assert "failed with status" in told, "its input is there"


def test_independent_stages_run_beside_each_other_and_others_wait() -> None:
    beside = threading.Barrier(2, timeout=20)
    order = []

    def run(stage: str) -> None:
        if stage in ("left", "right"):
            beside.wait()
        order.append(stage)

    assert run_in_order(DIAMOND, 2, run, never) == {}
    assert order[0] == "top"
    assert order[-1] == "bottom"
    assert sorted(order) == sorted(DIAMOND)


def test_one_job_runs_them_one_after_another() -> None:
    active, order = threading.Semaphore(1), []

    def run(stage: str) -> None:
        assert active.acquire(blocking=False)
        order.append(stage)
        active.release()

    assert run_in_order(DIAMOND, 1, run, never) == {}
    assert order == list(DIAMOND)


def test_after_a_failure_nothing_begins_and_what_runs_is_let_finish() -> None:
    failed, order = threading.Event(), []

    def run(stage: str) -> str | None:
        if stage == "left":
            failed.set()
            return "left broke"
        if stage == "right":
            assert failed.wait(20)
        order.append(stage)
        return None

    assert run_in_order(DIAMOND, 2, run, never) == {"left": "left broke"}
    assert order == ["top", "right"]


def test_an_exception_stops_what_runs() -> None:
    ended = threading.Event()

    def run(stage: str) -> str | None:
        if stage == "left":
            raise KeyboardInterrupt
        if stage == "right":
            assert ended.wait(20)
        return None

    with pytest.raises(KeyboardInterrupt):
        run_in_order(DIAMOND, 2, run, ended.set)
    assert ended.is_set()


def test_what_has_ended_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be that of another process by then."""
    groups = []

    def killpg(group: int, number: int) -> None:
        groups.append(group)
        os.kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    with subprocess.Popen([sys.executable, "-c", ""], text=True) as ended, sleeping() as runs:
        ended.wait(60)
        interrupt([ended, runs])
        assert runs.wait(60) != 0
    assert groups == [runs.pid]


@pytest.mark.parametrize(("cores", "jobs", "share"), [(1, 1, 1), (2, 2, 1), (16, 2, 8)])
def test_threads_are_divided_by_the_jobs(
    cores: int, jobs: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def affinity(pid: int) -> set[int]:
        return set(range(cores))

    monkeypatch.setattr("os.sched_getaffinity", affinity, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert shares() == (jobs, share)
    assert shares(4)[1] == max(1, cores // 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shares() == (jobs, None)


def test_runs_of_a_profile_take_turns_and_those_of_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    waits, order = threading.Event(), []

    def say(line: str) -> None:
        assert line == "waiting for another run of 'ci' ..."
        waits.set()

    def second() -> None:
        with turn(["study", "ci"], say):
            order.append("second")

    thread = threading.Thread(target=second)
    with turn(["ci"], pytest.fail), turn(["demo"], pytest.fail):
        thread.start()
        assert waits.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
