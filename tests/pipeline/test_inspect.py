from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import artifacts, export, extract, inspect
from pipeline.layout import Layout
from pipeline.params import Profile
from wam.errors import WamError


def test_every_artifact_is_described(
    raw_root: Path,
    converted: Layout,
    make_profile: Callable[..., Profile],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = Layout(tmp_path)
    layout.index.symlink_to(converted.index)
    layout.store.symlink_to(converted.store)
    export.run(make_profile(raw_root), layout)
    extract.run(make_profile(raw_root), layout)
    model = tmp_path / "model"
    model.mkdir()
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, model / "model.safetensors")
    artifacts.write_json(model / "config.json", {"variant": "wam"})
    summary = tmp_path / "results" / "summary.json"
    artifacts.write_json(summary, [{"variant": "wam", "task": "open_drawer", "success_rate": 0.5}])
    expected = {
        raw_root: ("CALVIN frames", "120 in 3 episodes"),
        raw_root / "training": ("CALVIN split", "uint8 (72, 80, 3)"),
        layout.index: ("index", "close_drawer 3"),
        layout.store: ("store", "float64 (120, 24)"),
        layout.store / "training.zarr": ("split of a store", "D, tiny"),
        layout.shards: ("WebDataset shards", "120 frames in 9 sequences, 3 tars"),
        layout.demos: ("demonstrations", "2 training (32 to 32 frames)"),
        model: ("model", "17 in 2 tensors"),
        summary: ("results", "success_rate 0.5"),
        summary.parent: ("results", "success_rate 0.5"),
    }
    for path, (kind, text) in expected.items():
        title, rows = inspect.describe(path)
        assert title == kind
        assert any(text in str(inspect._text(value)) for _, value in rows), (path, rows)
        inspect.run(path)
        assert kind in capsys.readouterr().out


def test_unknown_and_missing_paths_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="not an artifact"):
        inspect.run(tmp_path)
    with pytest.raises(WamError, match="not found"):
        inspect.run(tmp_path / "nothing")
    model = tmp_path / "model"
    model.mkdir()
    artifacts.write_json(model / "config.json", {})
    (model / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(WamError, match="not a valid safetensors file"):
        inspect.run(model)
