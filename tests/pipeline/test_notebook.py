"""The notebook runs from top to bottom, on a store and a model of the kind that it opens."""

import json
from pathlib import Path

import matplotlib
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"


def test_the_tour_can_be_taken(
    tiny_models: tuple[Profile, Layout],
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "committed without outputs"
    matplotlib.use("agg")
    space: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), space)
        if "DATA" in space:
            space["DATA"] = tiny_models[1].root
    output = capsys.readouterr().out
    assert "80 frames in 2 episodes" in output
    assert "parameters, latent of" in output
    assert len(space["quality"]) == 31  # type: ignore[arg-type]
