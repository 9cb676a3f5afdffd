"""Decoded frames kept for reading them again: in memory, or in a file that processes share.

The file is an uncompressed ``.npy`` array of records, one per frame, followed by the CRC32C of its
data. It appears complete or not at all, and is checked whenever it is opened.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import google_crc32c
import numpy as np

from pipeline import console
from pipeline.artifacts import locks
from pipeline.batches.mapped import mapped
from pipeline.store.frames import Frames
from wam.config import ACTION_SIZE, IMAGE_SIZE, PROPRIO_SIZE
from wam.errors import WamError
from wam.reliability.atomic import replacing, sweep

Cache = Literal["none", "ram", "memmap"]

_IMAGE = (IMAGE_SIZE, IMAGE_SIZE, 3)
_RECORD = np.dtype(
    [
        ("rgb_static", np.uint8, _IMAGE),
        ("rgb_gripper", np.uint8, _IMAGE),
        ("proprio", np.float32, PROPRIO_SIZE),
        ("rel_actions", np.float32, ACTION_SIZE),
    ]
)
"""What a batch is made of, under the store's names."""
FRAME_BYTES = _RECORD.itemsize
"""What a decoded frame takes."""
_PIECE = 1000
_CRC_BYTES = 4


def joined(parts: Sequence[tuple[Frames, int, int]]) -> Frames:
    """The rows [start, stop) of each (frames, start, stop) one after the other, decoded."""
    records = np.empty(sum(stop - start for _, start, stop in parts), _RECORD)
    at = 0
    for frames, start, stop in parts:
        for first in range(start, stop, _PIECE):
            last = min(first + _PIECE, stop)
            _fill(records[at : at + last - first], frames, first)
            at += last - first
    return Frames.of_arrays(records)


def cache_file(directory: Path | None, content: str, digest: str) -> Path:
    """Where :func:`memory_mapped` keeps what ``content`` names, in the version of ``digest``.

    Raises WamError without a directory.
    """
    if directory is None:
        raise WamError("cache='memmap' needs a directory for the file")
    return directory / f"{content}.{digest}.npy"


def memory_mapped(path: Path, num_frames: int, decode: Callable[[], Frames]) -> Frames:
    """The frames in the file ``path``, which is made of ``decode()`` where it is not there.

    A file that is cut off or damaged is made anew, and then older versions beside it (see
    :func:`cache_file`) are removed. Raises WamError if there is no room for it.
    """
    records = _open(path, num_frames)
    if records is None:
        with locks.exclusive(path):
            records = _open(path, num_frames)  # by now another process may have made it
            if records is None:
                _write(path, num_frames, decode)
                records = _open(path, num_frames)
    if records is None:
        raise WamError(f"{path}: what was written there does not read the same; check the disk")
    return Frames.of_arrays(records)


def announce(num_frames: int, where: str) -> None:
    """Tell how much ``num_frames`` decoded frames need."""
    console.note(f"cache: {_gigabytes(num_frames):.2f} GB of decoded frames in {where}")


def _gigabytes(num_frames: int) -> float:
    return num_frames * _RECORD.itemsize / 1e9


def _fill(records: np.ndarray, frames: Frames, start: int) -> None:
    frames.rgb_static(start, records["rgb_static"])
    frames.rgb_gripper(start, records["rgb_gripper"])
    records["proprio"] = frames.proprio[start : start + len(records)]
    records["rel_actions"] = frames.rel_actions[start : start + len(records)]


def _header(num_frames: int) -> bytes:
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(_RECORD)
    np.lib.format.write_array_header_2_0(
        buffer, {"descr": description, "fortran_order": False, "shape": (num_frames,)}
    )
    return buffer.getvalue()


def _open(path: Path, num_frames: int) -> np.ndarray | None:
    """The records in ``path``, if they are there and whole."""
    header = _header(num_frames)
    num_bytes = len(header) + num_frames * _RECORD.itemsize
    if not path.is_file() or path.stat().st_size != num_bytes + _CRC_BYTES:
        return None
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            return None
        file.seek(num_bytes)
        expected = file.read()
    records = mapped(path)[len(header) : num_bytes].view(_RECORD)
    pieces = (records[start : start + _PIECE] for start in range(0, num_frames, _PIECE))
    return records if _crc(pieces) == expected else None


def _write(path: Path, num_frames: int, decode: Callable[[], Frames]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.with_suffix("").stem
    sweep(path.parent)
    for other_version in path.parent.glob(f"{content}.*.npy"):
        other_version.unlink(missing_ok=True)
    needed, free = _gigabytes(num_frames), shutil.disk_usage(path.parent).free / 1e9
    if free < needed:
        raise WamError(
            f"{path.parent}: {free:.1f} GB free, the cache needs {needed:.1f}; "
            "set loader.cache to none or ram"
        )
    frames = decode()
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(_header(num_frames))
            file.write(_crc(_written(file, frames, num_frames)))
    except OSError as error:
        raise WamError(f"{path}: cannot be written ({error})") from None


def _written(file: BinaryIO, frames: Frames, num_frames: int) -> Iterator[np.ndarray]:
    """The records of ``frames`` piece by piece, each already in ``file``."""
    for start in range(0, num_frames, _PIECE):
        records = np.empty(min(_PIECE, num_frames - start), _RECORD)
        _fill(records, frames, start)
        file.write(records.view(np.uint8).data)
        yield records


def _crc(pieces: Iterator[np.ndarray]) -> bytes:
    crc = 0
    for piece in pieces:
        crc = google_crc32c.extend(crc, piece.view(np.uint8))
    return crc.to_bytes(_CRC_BYTES, "little")
