"""Features in files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.latents.features import load_features, save_features
from tests.pipeline.small_run import CONFIG, TASK, make_features
from wam.errors import WamError


def test_stored_features_come_back_as_they_were(tmp_path: Path) -> None:
    features = make_features()
    save_features(tmp_path / TASK, features, CONFIG)
    loaded = load_features(tmp_path, TASK)
    for split in ("training", "validation", "training_play", "validation_play"):
        for name, value in vars(getattr(features, split)).items():
            assert torch.equal(getattr(getattr(loaded, split), name), value), name
    for name in ("demo_starts", "validation_starts", "play_starts", "play_start_rows"):
        assert torch.equal(getattr(loaded, name), getattr(features, name)), name
    assert loaded.size == CONFIG.feature
    assert loaded.training.first.tolist() == [0, 20, 40, 60, 80, 100]


def test_probabilities_come_back_to_half_precision(tmp_path: Path) -> None:
    features = make_features()
    size = CONFIG.deter
    logits = torch.randn(
        5, CONFIG.stoch, CONFIG.classes, generator=torch.Generator().manual_seed(1)
    )
    starts = torch.cat([torch.zeros(5, size), logits.softmax(-1).flatten(-2)], dim=-1).unsqueeze(0)
    save_features(
        tmp_path / TASK,
        replace(features, play_starts=starts),
        replace(CONFIG, latent="probabilities"),
    )
    loaded = load_features(tmp_path, TASK)
    torch.testing.assert_close(loaded.play_starts, starts, atol=1e-3, rtol=0)
    assert torch.equal(loaded.training.posterior, features.training.posterior)


def test_features_without_context_are_complete(tmp_path: Path) -> None:
    features = make_features()
    training = replace(features.training, context=None, glimpsed=None)
    features = replace(features, training=training)
    save_features(tmp_path / TASK, features, CONFIG)
    loaded = load_features(tmp_path, TASK).training
    assert loaded.context is None and loaded.glimpsed is None


def test_missing_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(WamError, match=r"features\.safetensors"):
        load_features(tmp_path, TASK)
