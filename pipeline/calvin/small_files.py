"""The small files of a data set: arrays, pickles, YAML. Bounded to read, written as a whole."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calvin.npz import parse_npy
from pipeline.untrusted import bounded_yaml
from pipeline.untrusted.regular_file import read_regular
from pipeline.untrusted.text import check_text
from wam.errors import WamError
from wam.reliability.atomic import replacing

_MOST_TABLE_BYTES = 1 << 25
"""Two million episodes."""
MOST_LISTED = 20
LONGEST_TASK = 200


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array atomically as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    write_bytes(path, buffer.getvalue())


def write_pickled(path: Path, content: Any) -> None:
    """Write ``content`` atomically as a pickled ``.npy``."""
    write_npy(path, np.array(content, dtype=object))


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load_npy(path: Path) -> np.ndarray:
    content = _content(path, _MOST_TABLE_BYTES, "; every split of CALVIN data has this table")
    try:
        return parse_npy(content)
    except ValueError as error:
        raise WamError(f"{path}: not a valid .npy file ({error})") from None


def load_yaml(path: Path) -> Any:
    try:
        text = _content(path, bounded_yaml.MOST_CHARACTERS).decode()
    except UnicodeDecodeError as error:
        raise WamError(f"{path}: not valid YAML (not UTF-8 at byte {error.start})") from None
    return bounded_yaml.load(text, path)


def _content(path: Path, most_bytes: int, why: str = "") -> bytes:
    try:
        return read_regular(path, most_bytes)
    except FileNotFoundError:
        raise WamError(f"{path}: not found{why}") from None
    except OSError as error:
        raise WamError(f"{path}: cannot be read ({error.strerror})") from None


def lookup(mapping: Any, *keys: str) -> Any:
    """``mapping[keys[0]][keys[1]]…``, or None."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, dict) else None
    return mapping


def text(path: Path, content: Any, *keys: str) -> str | None:
    """A text or nothing. Raises WamError for anything else."""
    value = lookup(content, *keys)
    if value is not None:
        check_text(f"{path}: {'.'.join(keys)}", value, LONGEST_TASK)
    return value
