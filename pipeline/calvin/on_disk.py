"""CALVIN's on-disk format: one deflated ``.npz`` per frame, episode table, annotations, statistics.

Source: docs/calvin.md 1.2 to 1.7. ``directory`` is always that of one split.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.calvin.npz import DAMAGED, Kind, Npz
from pipeline.calvin.small_files import MOST_LISTED, load_npy, write_bytes
from pipeline.untrusted.regular_file import open_regular
from pipeline.untrusted.text import MAX_ID, shortened
from wam.errors import WamError

DIGITS = 7
"""Digits of a frame id in file names that we write; other data may differ."""
EPISODE_TABLE = "ep_start_end_ids.npy"
EPISODE_LENGTHS = "ep_lens.npy"

_FRAME_NAME = re.compile(r"episode_([0-9]{1,18})\.npz")


def frame_name(frame_id: int, digits: int = DIGITS) -> str:
    """``episode_0000000.npz`` of a frame."""
    return f"episode_{frame_id:0{digits}d}.npz"


def frame_path(directory: Path, frame_id: int, digits: int = DIGITS) -> Path:
    """``directory/episode_0000000.npz`` of a frame."""
    return directory / frame_name(frame_id, digits)


def parse_frame_name(name: str) -> tuple[int, int] | None:
    """``(frame id, digits)`` of a frame's file name; None for any other file."""
    match = _FRAME_NAME.fullmatch(name)
    return (int(match[1]), len(match[1])) if match else None


def list_frames(directory: Path) -> list[tuple[int, int, str]]:
    """Frame id, digits of the id and name of every frame file, in ascending order.

    Links to nothing, directories and named pipes are no frame files, whatever they are called.
    """
    with os.scandir(directory) as entries:
        return sorted(
            (*parsed, entry.name)
            for entry in entries
            if (parsed := parse_frame_name(entry.name)) is not None and _is_file(entry)
        )


def missing_frames(ids: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """How many frames from ``first`` to ``last`` are not in ``ids`` (ascending); the first one."""
    # By position and not by a list of all ids: a damaged table may claim billions of frames.
    start, stop = np.searchsorted(ids, (first, last + 1))
    present = np.unique(ids[start:stop])
    gaps = np.flatnonzero(present != first + np.arange(len(present)))
    return last + 1 - first - len(present), first + (int(gaps[0]) if len(gaps) else len(present))


def write_frame(directory: Path, frame_id: int, frame: dict[str, np.ndarray]) -> None:
    """Write one frame atomically; the same content gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **frame)  # type: ignore[arg-type]
    write_bytes(frame_path(directory, frame_id), buffer.getvalue())


def read_frame(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays called ``keys`` of one frame file.

    Raises WamError naming the file if it is missing, truncated or damaged, lacks a key, or holds
    more than any frame does.
    """
    keys = tuple(keys)
    with _open_frame(path) as archive:
        missing = [key for key in keys if key not in archive]
        if missing:
            found = archive.names
            more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
            listed = ", ".join(shortened(name) for name in found[:MOST_LISTED]) or "nothing"
            raise WamError(f"{path}: {missing[0]} is missing; found {listed}{more}")
        return archive.read(keys)


def examine_frame(path: Path, keys: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, Kind]]:
    """Those of ``keys`` that a frame file holds, and the dtype and shape of every array in it.

    Arrays that are not asked for are not inflated, and may be damaged or hold objects. Raises
    WamError naming the file if it is missing, truncated or damaged.
    """
    with _open_frame(path) as archive:
        arrays = archive.read(key for key in keys if key in archive)
        return arrays, {key: archive.kind(key) for key in archive.names}


def read_episode_table(directory: Path) -> np.ndarray:
    """int64 [E, 2]: the rows of the episode table as they are on disk.

    Raises WamError if the table is missing, damaged or empty, or has an id that no frame can have.
    """
    path = directory / EPISODE_TABLE
    table = load_npy(path)
    if table.ndim != 2 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes, 2), got {table.dtype} {table.shape}"
        )
    if len(table) == 0:
        raise WamError(f"{path}: holds no episode")
    if (beyond := (np.abs(table.astype(float)) > MAX_ID).any(axis=1)).any():
        row = table[beyond][0].tolist()
        raise WamError(f"{path}: episode {row}; expected frame ids from 0 to {MAX_ID}")
    return table.astype(np.int64)


def read_episode_lengths(directory: Path) -> np.ndarray:
    """int64 [E] of ``ep_lens.npy``. Raises WamError if it is missing or damaged."""
    path = directory / EPISODE_LENGTHS
    lengths = load_npy(path)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise WamError(
            f"{path}: expected integers of shape (episodes,), got {lengths.dtype} {lengths.shape}"
        )
    if len(lengths) and np.abs(lengths.astype(float)).max() > MAX_ID:
        raise WamError(f"{path}: a length of {lengths.max()} frames")
    return lengths.astype(np.int64)


def read_episodes(directory: Path) -> np.ndarray:
    """int64 [E, 2]: first and last frame id (both inclusive) of every episode, in ascending order.

    Raises WamError if the table is missing, damaged, empty, or has reversed or overlapping rows.
    """
    path = directory / EPISODE_TABLE
    table = read_episode_table(directory)
    table = table[np.argsort(table[:, 0], kind="stable")]
    if (reversed_ := table[:, 1] < table[:, 0]).any() or (table[:, 0] < 0).any():
        row = table[reversed_ | (table[:, 0] < 0)][0]
        raise WamError(f"{path}: episode {row.tolist()} ends before it starts or has a negative id")
    if (overlap := table[1:, 0] <= table[:-1, 1]).any():
        at = int(np.flatnonzero(overlap)[0])
        raise WamError(
            f"{path}: episodes {table[at].tolist()} and {table[at + 1].tolist()} overlap"
        )
    return table


@contextlib.contextmanager
def _open_frame(path: Path) -> Iterator[Npz]:
    """The archive of a frame; whatever its reader trips over becomes a WamError naming the file."""
    try:
        # No Python file object: its buffer would be larger than what is read of a frame.
        descriptor = open_regular(path)
        try:
            yield Npz(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise WamError(f"{path}: frame file not found") from None
    except OSError as error:
        raise WamError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        if isinstance(error, WamError):
            raise
        raise WamError(f"{path}: truncated or damaged frame file ({error})") from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False
