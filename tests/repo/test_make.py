"""The Makefile, run with fake programs in place of those that it installs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["make", "--no-print-directory", *arguments],
        cwd=directory,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(directory.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The Makefile in an unpacked archive, with a virtual environment of programs that log."""
    tree = tmp_path / "tree"
    (tree / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tree)
    shutil.copy(ROOT / ".dvc" / "config", tree / ".dvc")
    for name in ("pyproject.toml", "constraints.txt"):
        (tree / name).touch()
    dvc = shutil.which("dvc")
    assert dvc is not None
    executable(tree / ".venv" / "bin" / "dvc", f'exec {dvc} "$@"')
    executable(tree / ".venv" / "bin" / "wam", "exit 0")
    (tree / ".venv" / ".installed").touch()
    return tree


@pytest.mark.parametrize("version", ["3.10", "3.12"])
def test_another_python_is_refused_before_anything_is_installed(
    version: str, tmp_path: Path
) -> None:
    python = executable(tmp_path / "python", f"echo {version}")
    venv = tmp_path / "venv"
    process = make(ROOT, "install", f"PYTHON={python}", f"VENV={venv}")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert f"needs Python 3.11, found {version} ({python})" in output
    assert "make PYTHON=/path/to/python3.11" in output
    assert not venv.exists()


def test_no_python_at_all_is_told(tmp_path: Path) -> None:
    output, _ = make(ROOT, "install", "PYTHON=", f"VENV={tmp_path / 'venv'}").communicate()
    assert "needs Python 3.11, found none" in output


def test_an_archive_without_git_is_run_and_a_repository_again_later(tree: Path) -> None:
    told = "No git repository here"
    settings = tree / ".dvc" / "config.local"
    assert told in make(tree, "run").communicate()[0]
    assert "no_scm = true" in settings.read_text()
    assert told not in make(tree, "run").communicate()[0]
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    make(tree, "run").communicate()
    assert "no_scm" not in settings.read_text()
