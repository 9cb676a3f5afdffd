"""A reported run."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile
from pipeline.stages import extract, report
from tests.pipeline.report.made_up import make_run


@pytest.fixture(scope="session")
def profile(make_profile: Callable[..., Profile], raw_root: Path) -> Profile:
    made = make_profile(raw_root)
    return replace(made, finetune=replace(made.finetune, seeds=(0, 1, 2)))


@pytest.fixture(scope="session")
def run(profile: Profile, converted: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A reported run."""
    root = tmp_path_factory.mktemp("reported") / "demo"
    layout = Layout(Path(shutil.copytree(converted.root, root)))
    extract.run(profile, layout)
    make_run(profile, layout)
    report.run(profile, layout)
    return layout
