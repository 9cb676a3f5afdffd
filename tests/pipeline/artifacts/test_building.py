"""Whatever happens while an artifact is built: it is there as a whole or not, and work is kept."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import building, locks, provenance
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.identity import Identity
from pipeline.artifacts.manifests import (
    file_digest,
    fingerprint,
    read_json,
    read_manifest,
    verified_manifest,
)
from wam.errors import WamError

FREE, GROWING = ("log_every",), ("updates", "tasks")
PARAMS = {"lr": 0.1, "log_every": 10, "updates": 40, "tasks": ["a", "b"]}


def make(output: Path, text: str = "one", *, fail: bool = False, **changes: Any) -> list[str]:
    """Build ``output`` with one file; returns what the partial directory held at the start."""
    found: list[str] = []

    def fill(target: Build) -> None:
        found.extend(sorted(path.name for path in target.directory.iterdir()))
        (target.directory / text).write_text(text)
        (target.work / "checkpoint").write_text(text)
        if fail:
            raise RuntimeError("killed")
        target.manifest["text"] = text

    params = PARAMS | changes
    inputs = {"source": params.pop("source", "a")}
    build(output, fill, stage="test", params=params, inputs=inputs, free=FREE, growing=GROWING)
    return found


def left(output: Path) -> list[str]:
    """All that lies beside ``output``."""
    return sorted(path.name for path in output.parent.iterdir())


def test_output_appears_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output)
    assert read_manifest(output, "test")["text"] == "one"
    assert left(output) == ["out"]
    assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "one"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log_every": 1},
        {"updates": 60},
        {"tasks": ["a", "b", "c"]},
    ],
)
def test_work_goes_on_if_only_its_length_changes(tmp_path: Path, changes: dict[str, Any]) -> None:
    output = tmp_path / "out"
    with pytest.raises(RuntimeError):
        make(output, fail=True)
    assert not output.exists()
    assert make(output, "two", **changes) == [".work", "one"]
    assert left(output) == ["out"]
    assert verified_manifest(output)["params"] == PARAMS | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.2}, "lr was 0.1, is 0.2 now"),
        ({"tasks": ["a"]}, "tasks was ['a', 'b'], is ['a'] now"),
        ({"source": "b"}, "inputs.source was a, is b now"),
    ],
)
def test_work_that_is_of_no_use_is_set_aside_and_found_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    output = tmp_path / "out"
    with pytest.raises(RuntimeError):
        make(output, fail=True)
    assert make(output, "two", **changes) == [".work"]
    (aside,) = tmp_path.glob("out.set-aside-*")
    message = capsys.readouterr().out
    assert said in message and str(aside) in message
    assert (aside / "one").is_file() and (aside / ".work" / "checkpoint").is_file()
    assert make(output, "three") == [".work", "one"]
    assert left(output) == ["out"]


def test_two_works_of_one_kind_are_both_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for tasks in (["a", "b", "c"], ["a", "b"], ["a"]):
        with pytest.raises(RuntimeError):
            make(output, fail=True, tasks=tasks)
    assert len(list(tmp_path.glob("out.set-aside-*"))) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": 1}'])
def test_work_whose_description_is_damaged_is_set_aside(tmp_path: Path, content: str) -> None:
    output = tmp_path / "out"
    with pytest.raises(RuntimeError):
        make(output, fail=True)
    (tmp_path / "out.partial" / ".work" / "run.json").write_text(content)
    assert make(output, "two") == [".work"]
    (aside,) = tmp_path.glob("out.set-aside-unknown*")
    assert (aside / "one").is_file()


def test_work_of_an_earlier_version_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".run.json").write_text("{}")
    make(tmp_path / "out")
    assert (tmp_path / "out.set-aside-unknown" / ".run.json").is_file()


def test_an_earlier_output_survives_a_failed_run(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output)
    with pytest.raises(RuntimeError):
        make(output, "two", lr=0.2, fail=True)
    assert (output / "one").is_file()
    make(output, "three", lr=0.3)
    assert not (output / "one").exists()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output)
    assert make(output, "two", log_every=1) == []
    assert not (output / "two").exists()
    assert make(output, "two", updates=60) == [".work"]


def test_a_damaged_output_is_made_again(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output)
    (output / "one").write_text("two")
    make(output)
    assert (output / "one").read_text() == "one"


def test_other_code_makes_an_output_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    make(output)
    before = (output / "manifest.json").read_bytes()
    monkeypatch.setattr(building, "code_digest", lambda: "other")
    monkeypatch.setattr(provenance, "code_digest", lambda: "other")
    assert make(output) == [".work"]
    assert (output / "manifest.json").read_bytes() == before, "the same content is nothing new"
    make(output, "two")
    assert verified_manifest(output)["provenance"]["code"] == "other"
    assert left(output) == ["out"]


def test_the_manifest_says_what_made_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/wam", "index", "--profile", "ci"])
    make(tmp_path / "out")
    found = verified_manifest(tmp_path / "out")["provenance"]
    assert found.keys() == {"commit", "dirty", "code", "command"}
    assert found["command"] == "wam index --profile ci"


def test_files_of_nobody_are_not_published(tmp_path: Path) -> None:
    output = tmp_path / "out"
    stray = (".one.0123456789abcdef.tmp", "zarr.0123456789abcdef0123456789abcdef.partial")

    def fill(target: Build) -> None:
        for name in stray:
            (target.directory / name).write_text("left by a killed worker")
        (target.directory / "one").write_text("one")

    build(output, fill, stage="test", params={}, inputs={})
    assert list(verified_manifest(output)["files"]) == ["one"]
    assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "one"]


def test_what_the_writer_knows_is_not_computed_again_but_compared(tmp_path: Path) -> None:
    def fill(size: int) -> Callable[[Build], None]:
        def make(target: Build) -> None:
            (target.directory / "known").write_text("one")
            (target.directory / "other").write_text("three")
            target.known["known"] = {"bytes": size, "digest": "of the writer"}

        return make

    with pytest.raises(WamError, match=r"known: 3 bytes, 4 were written"):
        build(tmp_path / "out", fill(4), stage="test", params={}, inputs={})
    build(tmp_path / "out", fill(3), stage="test", params={}, inputs={})
    assert verified_manifest(tmp_path / "out")["files"] == {
        "known": {"bytes": 3, "digest": "of the writer"},
        "other": {"bytes": 5, "digest": file_digest(tmp_path / "out" / "other")},
    }


def test_a_linked_output_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    output = tmp_path / "out"
    output.symlink_to(tmp_path / "disk" / "data")
    make(output)
    make(output, "two", lr=0.2)
    assert output.is_symlink() and (output / "two").is_file()
    assert left(output) == ["disk", "out"]
    assert left(tmp_path / "disk" / "data") == ["data"]


def test_what_is_no_artifact_is_not_deleted(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("")
    make(output)
    assert (tmp_path / "out.set-aside-unknown" / "thesis.tex").is_file()


def test_unversioned_outputs_are_set_aside_and_found_again(tmp_path: Path) -> None:
    output = tmp_path / "raw"

    def collect(seed: int) -> None:
        def fill(target: Build) -> None:
            (target.directory / f"frame-{seed}").write_text("")

        with building.output_slot(output) as place:
            place.build(fill, Identity("t", {"seed": seed}, {}), versioned=False)

    collect(0)
    collect(1)
    assert (output / "frame-1").is_file()
    (aside,) = tmp_path.glob("raw.set-aside-*")
    assert (aside / "frame-0").is_file()
    collect(0)
    assert (output / "frame-0").is_file()
    (aside,) = tmp_path.glob("raw.set-aside-*")
    assert (aside / "frame-1").is_file()


def test_versions_and_commits_are_no_part_of_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out")
    before = fingerprint(tmp_path / "out", "test")
    monkeypatch.setattr(building, "versions", lambda: {"python": "4"})
    monkeypatch.setattr(building, "provenance", lambda: {"commit": "other", "code": "other"})
    make(tmp_path / "again" / "out")
    assert verified_manifest(tmp_path / "again" / "out")["versions"] == {"python": "4"}
    assert fingerprint(tmp_path / "again" / "out", "test") == before


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("case", ["new", "replaced", "same content"])
def test_a_kill_at_any_operation_loses_nothing(tmp_path: Path, exchange: bool, case: str) -> None:
    """The process is killed before each operation that changes the file system, in turn."""
    for number in itertools.count():
        output = tmp_path / str(number) / "out"
        if case != "new":
            make(
                output,
                "old" if case == "replaced" else "one",
                lr=0.2 if case == "replaced" else 0.1,
            )
        status = _forked(output, number, exchange, case)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        if case != "new" and exchange:
            assert verified_manifest(output), "one of both is always there"
        finished = (output.with_name("out.partial") / "manifest.json").is_file()
        begun = make(output)
        assert not (finished and begun), "complete work is not done again"
        assert left(output) == ["out"]
        assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "one"]
        assert list(verified_manifest(output)["files"]) == ["one"]
    assert number > 15


def _forked(*arguments: Any) -> int:
    """The exit status of :func:`_killed` in a copy of this process."""
    child = os.fork()
    if child == 0:
        try:
            _killed(*arguments)
        except BaseException:  # noqa: BLE001 - whatever it is, the copy must not run other tests
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killed(output: Path, number: int, exchange: bool, case: str) -> None:
    left_to_do = iter(range(number))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        )
        if changes and next(left_to_do, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    if not exchange:
        building._exchange = lambda first, second: False
    if case == "same content":
        building.code_digest = provenance.code_digest = lambda: "other"
    sys.addaudithook(hook)
    make(output)


def test_a_second_builder_waits_and_takes_what_is_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    order: list[str] = []

    def second() -> None:
        assert make(output) == []
        order.append("second")

    thread = threading.Thread(target=second)

    def fill(target: Build) -> None:
        thread.start()
        (target.directory / "one").write_text("one")
        thread.join(timeout=0.5)
        order.append("first")

    build(output, fill, stage="test", params=PARAMS, inputs={"source": "a"})
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_lies_beside_what_it_protects(tmp_path: Path) -> None:
    with locks.exclusive(tmp_path / "out"):
        assert left(tmp_path / "out") == [".out.lock"]
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_lock_is_neither_emptied_nor_waited_for(tmp_path: Path, kind: str) -> None:
    lock, victim = tmp_path / ".out.lock", tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with (
        pytest.raises(WamError, match=r"\.out\.lock: no lock file of wam"),
        locks.exclusive(tmp_path / "out"),
    ):
        pass
    assert victim.read_text() == "precious"


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text("")
    make(tmp_path / "out")
    assert left(tmp_path / "out") == ["out"]


def test_where_there_are_no_locks_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    make(tmp_path / "out")
    assert "this file system has no locks" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "manifest.json")["text"] == "one"
