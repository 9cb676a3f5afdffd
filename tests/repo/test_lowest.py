"""The lowest versions that ``make test-lowest`` installs."""

import tomllib

import pytest

from tests.compat.lowest import PYPROJECT, lowest

PROJECT = tomllib.loads(PYPROJECT.read_text())["project"]


def test_bounds_become_pins_without_extras_and_upper_bounds() -> None:
    project = {
        "dependencies": ["numpy>=2.2", "fsspec[http]>=2024.2,<2027"],
        "optional-dependencies": {"sim": ["pybullet==3.2.7"], "other": ["unused>=1"]},
    }
    assert lowest(project, ["sim"]) == ["numpy==2.2", "fsspec==2024.2", "pybullet==3.2.7"]


@pytest.mark.parametrize("line", ["fastapi", "fastapi<0.151", "fastapi!=0.150"])
def test_a_requirement_without_a_lower_bound_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}: has no lower bound"):
        lowest({"dependencies": [line]}, [])


def test_every_requirement_that_is_tested_has_a_lower_bound() -> None:
    assert lowest(PROJECT, ["sim", "pipeline", "dev", "lerobot"])
