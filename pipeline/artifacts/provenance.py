"""By which code and which command an artifact was made."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifests

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("wam", "pipeline", "flows")
_SOURCES = (".py", ".csv", ".css", ".jinja")
"""Suffixes of what is installed: the modules, and the data that they read."""


def provenance() -> dict[str, Any]:
    """``commit`` and ``dirty`` of the code (None outside of git), ``code``, its digest, and the
    ``command`` line of this process."""
    return {**_git(), "code": code_digest(), "command": _command()}


def commit_of(made: Mapping[str, Any]) -> str:
    """The commit of a :func:`provenance` in words, and whether the code was changed since."""
    return (made["commit"] or "no commit")[:10] + (", changed" if made["dirty"] else "")


def version() -> str:
    """Of this project, with its commit, and of the packages that results depend on."""
    git = _git()
    commit = f" ({commit_of(git)})" if git["commit"] else ""
    known = manifests.versions()
    own = known.pop("wam")
    return f"wam {own}{commit}\n" + "".join(f"{name} {found}\n" for name, found in known.items())


@functools.cache
def code_digest() -> str:
    """Digest of all sources of this project, as they are on the disk when it is first asked for."""
    files = sorted(
        path
        for package in _PACKAGES
        for path in (_ROOT / package).rglob("*")
        if path.suffix in _SOURCES
    )
    return manifests.digest(
        [[str(path.relative_to(_ROOT)), manifests.file_digest(path)] for path in files]
    )


@functools.cache
def _git() -> dict[str, Any]:
    commit = _ask_git("rev-parse", "HEAD")
    # What is not code changes all the time: dvc.lock after every stage.
    changes = _ask_git("status", "--porcelain", "--", *_PACKAGES)
    return {"commit": commit or None, "dirty": bool(changes) if commit else None}


def _ask_git(*arguments: str) -> str | None:
    """What git answers about the checkout of the code; None where there is none, or no git."""
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    result = subprocess.run(
        [git, "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None


def _command() -> str:
    """As a person would type it, without the place where the program lies."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name != "__main__":
        program = f"python -m {spec.name.removesuffix('.__main__')}"
    else:
        program = Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])
