"""What importing the package does for the libraries behind it."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

UNKNOWN = 54321
CODE = f"""
import getpass, os, pathlib, pwd, tempfile  # before: root's Python may be closed to others
tempfile.gettempdir()
os.setgroups([])
os.setgid({UNKNOWN})
os.setuid({UNKNOWN})
import pipeline
print(getpass.getuser(), pathlib.Path.home())
(pathlib.Path.home() / "cache").write_text("x")
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:  # not below pytest's, which is closed to others
        os.chown(name, UNKNOWN, UNKNOWN)
        yield Path(name)


def is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@pytest.mark.skipif(os.getuid() != 0 or is_known(UNKNOWN), reason="needs root and a free user id")
@pytest.mark.parametrize("home", [None, "/", "/nowhere", "own"])
def test_a_user_without_an_entry_gets_a_name_and_a_home(directory: Path, home: str | None) -> None:
    environment = {"TMPDIR": str(directory), "PYTHONPATH": str(Path(__file__).parents[2])}
    expected = directory / f"wam-{UNKNOWN}"
    if home == "own":
        home, expected = str(directory), directory
    if home is not None:
        environment["HOME"] = home
    for _ in range(2):
        result = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.stdout, result.stderr) == (f"{UNKNOWN} {expected}\n", "")
