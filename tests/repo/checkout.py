"""What git says of the checkout that the tests of the repository run in."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def changed(*paths: str) -> bool:
    """Whether anything at ``paths`` is not as it was committed; no, without a repository."""
    command = ["git", "status", "--porcelain", "--", *paths]
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)
