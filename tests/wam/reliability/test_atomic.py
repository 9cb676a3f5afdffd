"""A file is the old one or the new one, and nothing stays beside it."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from wam.reliability.atomic import replacing, sweep


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_exception_the_old_file_is_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with replacing(tmp_path / "file") as temporary:
                temporary.write_bytes(bytes(2000))
        except OSError as error:
            os._exit(0 if error.filename == str(tmp_path / "file") else 2)
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def _killed(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_writer_left_is_swept_up_and_nothing_else(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(tmp_path / "below" / "file",)
    )
    (tmp_path / "below").mkdir()
    process.start()
    process.join()
    mine = tmp_path / "below" / ".mine.tmp"
    mine.write_text("")
    with replacing(tmp_path / "below" / "other") as living:
        living.write_text("whole")
        assert len(list((tmp_path / "below").iterdir())) == 3
        sweep(tmp_path)
        assert len(list((tmp_path / "below").iterdir())) == 3
        sweep(tmp_path, recursive=True)
    assert sorted((tmp_path / "below").iterdir()) == [mine, tmp_path / "below" / "other"]


def test_a_file_that_a_library_has_replaced_is_as_readable_and_as_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors renames a file of its own, with mode 600, onto the one that it is given."""
    path, plain = tmp_path / "weights", tmp_path / "plain"
    plain.write_text("as the user's mask has it")
    on_disk: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (on_disk.append(os.fstat(file).st_ino), fsync(file))
    )
    with replacing(path) as temporary:
        other = tmp_path / "other"
        other.write_text("tensors")
        other.chmod(0o600)
        other.replace(temporary)
    assert path.stat().st_mode == plain.stat().st_mode
    assert on_disk == [path.stat().st_ino]


def test_what_a_killed_library_left_is_swept_up(tmp_path: Path) -> None:
    """safetensors writes a file of its own beside the one that it is given."""
    (tmp_path / ".tmpeBTkbX").write_text("half")
    kept = tmp_path / ".tmp_of_mine"
    kept.write_text("")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
