"""What the report reads. Everything here may be absent: then the page says "not computed"."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.manifests import MANIFEST, read_json

TextTable = list[dict[str, str]]
"""Rows that hold the same columns; without a row there is nothing to show."""


def optional_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return read_json(path) if path.is_file() else None


def manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact; empty where it is not complete."""
    return optional_json(directory / MANIFEST) or {}


def images(paths: Mapping[str, Path]) -> dict[str, str]:
    """The PNG and WebP files among ``paths`` that exist, as ``data:`` addresses."""
    return {
        name: f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name, path in paths.items()
        if path.is_file()
    }


def formatted(value: Any, form: str) -> str:
    """``value`` in the form of a table's cell; "-" for None."""
    return "-" if value is None else form.format(value)
