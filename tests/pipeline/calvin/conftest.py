"""A conformant data set, and a copy of it that a test may damage."""

import os
import shutil
from pathlib import Path

import pytest

from tests.pipeline.calvin.conformant import make_conformant


@pytest.fixture(scope="session")
def conformant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: three training episodes and a validation episode of 36 frames, with every file."""
    root = tmp_path_factory.mktemp("conformant")
    make_conformant(root)
    return root


@pytest.fixture
def root(conformant: Path, tmp_path: Path) -> Path:
    """A copy to be damaged. Hard links: whoever writes a file replaces it."""
    return Path(shutil.copytree(conformant, tmp_path / "data", copy_function=os.link))
