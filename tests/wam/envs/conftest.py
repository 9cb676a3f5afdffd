"""The simulator's fixtures; without pybullet all these tests are skipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pybullet")

from wam.envs.simulator.play_table import PlayTableEnv


@pytest.fixture(scope="session")
def golden() -> Path:
    """Traces and images of the official simulator."""
    directory = Path(__file__).resolve().parents[4] / "shared" / "golden"
    if not directory.is_dir():
        pytest.skip(f"the official simulator's traces are not at {directory}")
    return directory


@pytest.fixture(scope="session")
def assets(golden: Path) -> Path:
    """CALVIN's scene assets."""
    directory = golden.parent / "calvin_assets"
    if not directory.is_dir():
        pytest.skip(f"CALVIN's assets are not at {directory}")
    return directory


@pytest.fixture(scope="module")
def env() -> Iterator[PlayTableEnv]:
    """Scene D without cameras. A reset forgets what earlier tests did."""
    made = PlayTableEnv("D", cameras=False)
    yield made
    made.close()
