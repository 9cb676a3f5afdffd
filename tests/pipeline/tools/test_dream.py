"""Films of imagined frames beside real ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.embedded import read_arm_motion
from pipeline.batches.order import fixed_windows
from pipeline.params import Profile
from pipeline.store.open import open_store
from pipeline.tools import dream
from wam.batch import Batch
from wam.errors import WamError
from wam.world_model.assessment import Predictions, predict
from wam.world_model.model import WorldModel
from wam.world_model.proprio_state import lags

Models = tuple[Profile, Layout]


def read_mp4(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        more, frame = capture.read()
        if not more:
            return frames
        frames.append(frame)


def test_a_film_has_the_given_frame_and_every_imagined_one(
    tiny_models: Models, tmp_path: Path
) -> None:
    output = tmp_path / "films" / "dream.mp4"
    dream.run(*tiny_models, "wam", sequence=2, steps=6, output=output)
    frames = read_mp4(output)
    assert len(frames) == 1 + 6 + 16, "the last one stays for 1.6 seconds"
    assert frames[0].shape == (26 + 2 * 224, 2 * 224, 3)
    assert np.abs(frames[1].astype(int) - frames[0]).mean() > 1, "the real frames move"


def test_a_film_begins_with_the_hand_where_it_is_led(
    tiny_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filmed: list[Batch] = []

    def watched(model: WorldModel, windows: Batch, *rest: Any) -> Iterator[Predictions]:
        filmed.append(windows)
        return predict(model, windows, *rest)

    monkeypatch.setattr(dream, "predict", watched)
    profile, layout = tiny_models
    dream.run(profile, layout, "wam", sequence=2, steps=6, output=tmp_path / "dream.mp4")
    store = open_store(store_path(layout.store, "validation"))
    settings = profile.evaluate_world_model
    length = settings.open_loop_steps + 1
    starts = fixed_windows(store.episodes, length, settings.open_loop_sequences, settings.seed)
    (windows,) = filmed
    assert windows.first_lag is not None
    assert torch.equal(windows.first_lag[0], lags(read_arm_motion(store))[starts[2]])


def test_an_animation_as_well(tiny_models: Models, tmp_path: Path) -> None:
    output = tmp_path / "dream.webp"
    dream.run(*tiny_models, "dreamerv2", output=output)
    with Image.open(output) as film:
        assert film.n_frames == 1 + 11  # type: ignore[attr-defined]


def test_the_default_place(tiny_models: Models) -> None:
    profile, layout = tiny_models
    dream.run(profile, layout, "wam", sequence=1, steps=2)
    assert (layout.root / "dreams" / "wam-sequence_1.mp4").is_file()


def test_what_cannot_be_filmed_is_named(tiny_models: Models, tmp_path: Path) -> None:
    with pytest.raises(WamError, match=r"--sequence 12: .* has 12, from 0 on"):
        dream.run(*tiny_models, "wam", sequence=12)
    with pytest.raises(WamError, match=r"--steps 40: the episode goes on for \d+ steps only"):
        dream.run(*tiny_models, "wam", steps=40)
    with pytest.raises(WamError, match=r"demos: no complete artifact here; run 'wam extract'"):
        dream.run(*tiny_models, "wam", task="close_drawer")
    with pytest.raises(WamError, match=r"dream\.gif: unknown kind of film"):
        dream.run(*tiny_models, "wam", output=tmp_path / "dream.gif")
