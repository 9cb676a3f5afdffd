"""Weights and training states are what was written, or are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wam.errors import WamError
from wam.training.checkpoint import load_training_state, save_training_state
from wam.weights import MODEL_FILE, load_tensors, save_tensors


def tensors(path: Path) -> Callable[[], object]:
    save_tensors(path, {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2).half()})
    return lambda: load_tensors(path.parent)


def state(path: Path) -> Callable[[], object]:
    save_training_state(path, {"step": 3, "model": {"weight": torch.arange(4)}, "losses": [0.5]})
    return lambda: load_training_state(path)


@pytest.mark.parametrize("save", [tensors, state])
def test_no_changed_byte_is_loaded(
    tmp_path: Path, save: Callable[[Path], Callable[[], object]]
) -> None:
    path = tmp_path / MODEL_FILE
    load = save(path)
    load()
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(WamError, match=r"model\.safetensors: damaged"):
            load()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(WamError, match=r"model\.safetensors: damaged"):
            load()


def test_weights_of_the_same_values_are_the_same_bytes(tmp_path: Path) -> None:
    tensors(tmp_path / "a")
    tensors(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_training_state_comes_back_as_it_was(tmp_path: Path) -> None:
    load = state(tmp_path / "state")
    found = load()
    assert isinstance(found, dict)
    assert found["step"] == 3 and found["losses"] == [0.5]
    assert torch.equal(found["model"]["weight"], torch.arange(4))
    assert load_training_state(tmp_path / "missing") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_take_no_place(tmp_path: Path, value: float) -> None:
    load = tensors(tmp_path / MODEL_FILE)
    broken = {"weight": torch.ones(2), "bias": torch.tensor([0.0, value]).bfloat16()}
    with pytest.raises(WamError, match=r"model\.safetensors: not written, as bias holds NaN"):
        save_tensors(tmp_path / MODEL_FILE, broken)
    assert isinstance(load(), dict), "the earlier ones are still there"
