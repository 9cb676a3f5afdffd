"""What a film leaves beside itself when it cannot be written: nothing."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.pictures import animation
from wam.errors import WamError
from wam.reliability.atomic import sweep

FRAMES = [Image.new("RGB", (16, 16))] * 2


def test_a_film_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path / "before"
    before.mkdir()
    films = tmp_path / "films"

    def failing(video: Path, *_: object) -> None:
        video.write_bytes(b"half a film")
        shutil.copytree(films, before, dirs_exist_ok=True)
        raise WamError("no room")

    films.mkdir()
    monkeypatch.setattr(animation, "_write_mp4", failing)
    with pytest.raises(WamError, match="no room"):
        animation.write(films / "dream.mp4", FRAMES, 100)
    assert list(films.iterdir()) == []
    # As a killed process would have left them.
    assert len(list(before.iterdir())) == 2
    sweep(before)
    assert list(before.iterdir()) == []
