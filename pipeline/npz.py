"""Reading the arrays of a small ``.npz`` file, several times as fast as ``np.load``.

A data set has hundreds of thousands of them, and ``zipfile`` spends more time on its own objects
than on inflating. Here the table of contents is read in one go, libdeflate inflates, and equal
``.npy`` headers are parsed once. Nothing is ever unpickled.
"""

import functools
import io
import itertools
import os
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from deflate import DeflateError, crc32, deflate_decompress

DAMAGED = (DeflateError, IndexError, KeyError, ValueError, struct.error, zlib.error)
"""What reading a damaged archive raises."""

Kind = tuple[str, tuple[int, ...]]
"""Dtype and shape."""

_END = struct.Struct("<4s6xH2L2x")
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")
_LOCAL = struct.Struct("<4s22x2H")
_LOCAL_BYTES = 30
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_HIGHEST_RATIO = 1032
"""Deflate cannot compress better; a size beyond it is damage, for which no memory is reserved."""
_TAIL_BYTES = 4096
"""At the end of the file; more than the table of contents of a frame."""


class _Entry(NamedTuple):
    """One array in the table of contents."""

    flags: int
    method: int
    checksum: int
    packed_size: int
    size: int
    offset: int


class Npz:
    """The archive in the open file ``descriptor``, of which only what is needed is read.

    All methods raise one of :data:`DAMAGED` if the file is damaged.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._entries, self._stops = _read_contents(descriptor)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """The arrays, in alphabetical order."""
        return sorted(self._entries)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array called ``name``, after its checksum was compared."""
        entry = self._entries[name]
        packed = self._packed(name, entry)
        content = packed if entry.method == _STORED else deflate_decompress(packed, entry.size)
        if len(content) != entry.size or crc32(content) != entry.checksum:
            raise ValueError(f"checksum of {name} is wrong")
        return _parse_npy(content)

    def kind(self, name: str) -> Kind:
        """Dtype and shape; no more than the beginning of the array is inflated for them."""
        entry = self._entries[name]
        packed = self._packed(name, entry)

        def beginning(length: int) -> bytes:
            if entry.method == _STORED:
                return bytes(packed[:length])
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, length)

        header = beginning(_header_bytes(beginning(_SHORTEST_NPY)))
        shape, _, dtype = _parse_header(header)
        return str(dtype), shape

    def _packed(self, name: str, entry: _Entry) -> memoryview:
        """The compressed bytes of an array."""
        if entry.flags & _ENCRYPTED or entry.method not in (_STORED, _DEFLATED):
            raise ValueError(f"{name} is neither stored nor deflated")
        if entry.size > _HIGHEST_RATIO * (entry.packed_size + 1):
            raise ValueError(f"{name} claims {entry.size} bytes")
        # Up to where the next array begins: how long its own header is, only that header tells.
        length = self._stops[entry.offset] - entry.offset
        content = memoryview(os.pread(self._descriptor, length, entry.offset))
        signature, name_bytes, extra_bytes = _LOCAL.unpack_from(content)
        if signature != b"PK\3\4":
            raise ValueError(f"{name} is not where the table of contents says")
        start = _LOCAL_BYTES + name_bytes + extra_bytes
        return content[start : start + entry.packed_size]


def _read_contents(descriptor: int) -> tuple[dict[str, _Entry], dict[int, int]]:
    """The arrays by name, and by every array's offset that of what follows it."""
    file_size = os.fstat(descriptor).st_size
    tail_start = max(file_size - _TAIL_BYTES, 0)
    tail = os.pread(descriptor, _TAIL_BYTES, tail_start)
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        raise ValueError("no table of contents")
    _, count, length, start = _END.unpack_from(tail, end)
    if start < tail_start:
        tail, tail_start = os.pread(descriptor, length, start), start
    at = start - tail_start
    entries = {}
    for _ in range(count):
        fields = _ENTRY.unpack_from(tail, at)
        if fields[0] != b"PK\1\2":
            raise ValueError("the table of contents is damaged")
        name_bytes, extra_bytes, comment_bytes = fields[6:9]
        at += _ENTRY.size
        name = tail[at : at + name_bytes].decode("utf-8", "replace").removesuffix(".npy")
        entries[name] = _Entry._make((*fields[1:6], fields[9]))
        at += name_bytes + extra_bytes + comment_bytes
    offsets = sorted({*(entry.offset for entry in entries.values()), start})
    if offsets[-1] > min(start, file_size):
        raise ValueError("the table of contents is damaged")
    return entries, dict(itertools.pairwise(offsets))


_SHORTEST_NPY = 12
"""Bytes that hold the length of the header in every version of the format."""


def _parse_npy(content: bytes | bytearray | memoryview) -> np.ndarray:
    """The array of a ``.npy`` file. Raises ValueError if it is damaged or would need unpickling."""
    stop = _header_bytes(content)
    shape, is_fortran, dtype = _parse_header(bytes(content[:stop]))
    array = np.frombuffer(content, dtype, offset=stop)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def _header_bytes(content: bytes | bytearray | memoryview) -> int:
    # Magic string, version, length of the header, header (format version 1 or 2 and 3).
    length_bytes = 2 if content[6] == 1 else 4
    start = 8 + length_bytes
    return start + int.from_bytes(content[8:start], "little")


@functools.lru_cache(maxsize=256)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects instead of numbers")
    return shape, is_fortran, dtype
