"""The cache of generated scene files."""

import os
from pathlib import Path

import pytest

from wam.envs.scene_files import assets


def test_what_a_killed_process_left_in_the_scene_cache_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = tmp_path / "wam" / "scenes"
    old, new = root / ".scene-old", root / ".scene-new"
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "table.urdf").write_text("")
    os.utime(old, (0, 0))
    assets._materialise({"a.urdf": b"a"})
    assert not old.exists()
    assert new.exists(), "another process may be writing it"
