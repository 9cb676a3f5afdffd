"""What the report reads. Everything here may be absent: then the page says "not computed"."""

import base64
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifests
from pipeline.artifacts.manifests import MANIFEST, read_json
from wam.training.journal import Journal

_LARGE = ("convert", "export")
"""Stages whose output is checked as it is read."""
_MEDIA = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}


def optional_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.is_file() else None


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.jsonl`` file, oldest first; empty where there is none."""
    return Journal(path).records()


def manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact; empty where it is not complete."""
    return optional_json(directory / MANIFEST) or {}


def fingerprint(directory: Path) -> str:
    """Digest that stands for an artifact's content; "not computed" where it is not complete.

    Raises WamError if a file of it is damaged.
    """
    stage = manifest(directory).get("stage")
    if stage is None:
        return "not computed"
    return manifests.fingerprint(directory, stage, deep=stage not in _LARGE)


def commit(directory: Path) -> str | None:
    """The code that made an artifact; None where it is not complete or does not say."""
    origin = manifest(directory).get("provenance")
    if origin is None:
        return None
    if origin["commit"] is None:
        return f"outside of git, sources {origin['code'][:12]}"
    return f"git {origin['commit'][:12]}" + (", changed" if origin["dirty"] else "")


def made_by(directory: Path) -> str:
    """Code and command that made an artifact."""
    origin = manifest(directory).get("provenance")
    return f"{commit(directory)} · {origin['command']}" if origin else "not computed"


def data_uri(path: Path) -> str | None:
    """An image file as a ``data:`` address, None where there is none."""
    if not path.is_file():
        return None
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_MEDIA[path.suffix]};base64,{content}"


def size(directory: Path) -> int:
    """Bytes of all files below ``directory``."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
