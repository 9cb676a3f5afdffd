import os
from pathlib import Path

import pytest

from pipeline.untrusted.regular_file import open_regular, read_regular, what_is_there
from wam.errors import WamError


def test_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name, 3) == b"abc"
        assert what_is_there(tmp_path / name) is None
    with pytest.raises(WamError, match="file: has 3 bytes; expected at most 2"):
        read_regular(tmp_path / "file", 2)


def test_whatever_else_has_the_name_of_a_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for path, words in (
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "directory", "a directory"),
        (Path("/dev/zero"), "a device"),
    ):
        assert what_is_there(path) == words
        with pytest.raises(WamError, match=f"{path.name}: is {words}; expected a file"):
            open_regular(path)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    assert what_is_there(tmp_path / "dangling") == "a link to nothing"
    assert "symbolic links" in (what_is_there(tmp_path / "loop") or "")
    assert what_is_there(tmp_path / "nothing") is None
    for name in ("dangling", "nothing"):
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / name)
