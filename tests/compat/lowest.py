"""The lowest versions that pyproject.toml allows, as constraints for pip.

python -m tests.compat.lowest EXTRA...
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def lowest(project: dict[str, Any], extras: Sequence[str]) -> list[str]:
    """``name==version`` for every requirement of the project itself and of its ``extras``."""
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    return [_lowest(line) for lines in lists for line in lines]


def _lowest(line: str) -> str:
    requirement = Requirement(line)
    bounds = [bound for bound in requirement.specifier if bound.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{line}: has no lower bound to test")
    return f"{requirement.name}=={bounds[0].version}"


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    sys.stdout.write("".join(f"{line}\n" for line in lowest(project, sys.argv[1:])))
