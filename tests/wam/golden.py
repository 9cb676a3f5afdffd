"""Figures that a change is not to alter, in a JSON file beside the test that holds it to them."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch

Figures = Mapping[str, float | None]


def check(path: Path, option: str, found: Figures) -> None:
    """``found`` is what ``path`` has for ``option``, but for how another processor rounds."""
    expected = json.loads(path.read_text())[option]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # What cancels to nearly nothing keeps the rounding of what it is the difference of.
        close = value if value is None else pytest.approx(value, rel=1e-5, abs=1e-7)
        assert found[name] == close, name


def write(path: Path, options: Iterable[str], figures: Callable[[str], Figures]) -> None:
    content = {option: figures(option) for option in options}
    path.write_text(json.dumps(content, indent=1) + "\n")


def square_norm(tensors: Iterable[torch.Tensor]) -> float:
    return sum(float(values.detach().double().square().sum()) for values in tensors)
