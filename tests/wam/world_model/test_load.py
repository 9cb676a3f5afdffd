from pathlib import Path

import numpy as np
import pytest
import torch

from wam.errors import WamError
from wam.proprio import ProprioNormalizer
from wam.reliability.json_files import read_json
from wam.weights import CONFIG_FILE, load_tensors, save_model
from wam.world_model.load import load_world_model, world_model_config
from wam.world_model.model import WorldModel


def test_a_saved_model_comes_back_frozen_and_equal(tiny_model: WorldModel, tmp_path: Path) -> None:
    normalizer = ProprioNormalizer(np.zeros(18), np.arange(1.0, 19.0))
    save_model(tmp_path, tiny_model, world_model_config(tiny_model, "wam", normalizer, updates=8))
    model, loaded = load_world_model(tmp_path, "cpu")
    assert model.config == tiny_model.config
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert not any(p.requires_grad for p in model.parameters())
    np.testing.assert_array_equal(loaded.maximum, normalizer.maximum)
    assert read_json(tmp_path / CONFIG_FILE)["updates"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_broken_models_are_named(tiny_model: WorldModel, tmp_path: Path) -> None:
    with pytest.raises(WamError, match=r"config\.json: not found"):
        load_world_model(tmp_path, "cpu")
    normalizer = ProprioNormalizer(np.zeros(18), np.ones(18))
    config = world_model_config(tiny_model, "wam", normalizer)
    config["model"]["deter"] = 48
    save_model(tmp_path, tiny_model, config)
    with pytest.raises(WamError, match="does not fit"):
        load_world_model(tmp_path, "cpu")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WamError, match="damaged"):
        load_tensors(tmp_path)
