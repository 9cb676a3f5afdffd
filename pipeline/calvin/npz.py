"""Reading the arrays of a small ``.npz`` file, several times as fast as ``np.load``.

A data set has hundreds of thousands of them, and ``zipfile`` spends more time on its own objects
than on inflating. Here the table of contents is read in one go, libdeflate inflates, and equal
``.npy`` headers are parsed once. Nothing is ever unpickled, and no size that a file claims is
believed before it is compared with what a frame may hold.
"""

import functools
import io
import itertools
import math
import os
import struct
import tokenize
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from deflate import DeflateError, crc32, deflate_decompress

from pipeline.untrusted.text import MISFITS

DAMAGED = (DeflateError, IndexError, KeyError, ValueError, struct.error, zlib.error)
"""What reading a damaged archive raises."""

Kind = tuple[str, tuple[int, ...]]
"""Dtype and shape."""

MOST_BYTES = 1 << 26
"""Of all arrays that are read of a frame at a time; CALVIN's largest has 1 MB."""
UNREADABLE: Kind = ("void", ())
"""Kind of an array of which not even that can be told."""

_END = struct.Struct("<4s6xH2L2x")
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")
_LOCAL = struct.Struct("<4s22x2H")
_LOCAL_BYTES = 30
_LONGEST_NAMES = 2 * 0xFFFF
"""Bytes of a name and of what may follow it, before an array."""
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_HIGHEST_RATIO = 1032
"""Deflate cannot compress better; a size beyond it is damage, for which no memory is reserved."""
_TAIL_BYTES = 4096
"""At the end of the file; more than the table of contents of a frame."""
_MOST_ARRAYS = 4096
_MOST_CONTENTS_BYTES = 1 << 20
SHORTEST_NPY = 12
"""Bytes that hold the length of the header in every version of the format."""
_LONGEST_HEADER = 10_000
"""As numpy has it."""


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

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The arrays called ``names``, after their checksums were compared."""
        arrays = {}
        total = 0
        for name in names:
            total += self._entries[name].size
            if total > MOST_BYTES:
                raise ValueError(
                    f"{name} claims {self._entries[name].size:,} bytes; "
                    f"expected at most {MOST_BYTES:,} in a frame"
                )
            arrays[name] = self._read(name)
        return arrays

    def kind(self, name: str) -> Kind:
        """Dtype and shape, or :data:`UNREADABLE`; no more than the beginning is inflated."""
        try:
            entry = self._entries[name]
            packed = self._packed(name, entry, 2 * _LONGEST_HEADER)

            def beginning(length: int) -> bytes:
                if entry.method == _STORED:
                    return bytes(packed[:length])
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, length)

            header = parse_header(beginning(header_stop(beginning(SHORTEST_NPY))))
        except DAMAGED:
            return UNREADABLE
        # Records have no name that numpy would understand.
        return "void" if header.dtype.kind == "V" else str(header.dtype), header.shape

    def _read(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        packed = self._packed(name, entry, entry.packed_size)
        content = packed if entry.method == _STORED else deflate_decompress(packed, entry.size)
        if len(content) != entry.size or crc32(content) != entry.checksum:
            raise ValueError(f"checksum of {name} is wrong")
        try:
            return parse_npy(content)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    def _packed(self, name: str, entry: _Entry, most: int) -> memoryview:
        """Up to ``most`` of the compressed bytes of an array."""
        if entry.flags & _ENCRYPTED or entry.method not in (_STORED, _DEFLATED):
            raise ValueError(f"{name} is neither stored nor deflated")
        if entry.size > _HIGHEST_RATIO * (entry.packed_size + 1):
            raise ValueError(f"{name} claims {entry.size:,} bytes in {entry.packed_size:,}")
        if entry.packed_size > 2 * entry.size + _LONGEST_HEADER:
            raise ValueError(f"{name} claims {entry.packed_size:,} bytes for {entry.size:,}")
        # Up to where the next array begins: how long its own header is, only that header tells.
        length = min(self._stops[entry.offset] - entry.offset, _LOCAL_BYTES + _LONGEST_NAMES + most)
        content = memoryview(os.pread(self._descriptor, length, entry.offset))
        signature, name_bytes, extra_bytes = _LOCAL.unpack_from(content)
        if signature != b"PK\3\4":
            raise ValueError(f"{name} is not where the table of contents says")
        start = _LOCAL_BYTES + name_bytes + extra_bytes
        return content[start : start + min(most, entry.packed_size)]


def _read_contents(descriptor: int) -> tuple[dict[str, _Entry], dict[int, int]]:
    """The arrays by name, and by every array's offset that of what follows it."""
    file_size = os.fstat(descriptor).st_size
    tail_start = max(file_size - _TAIL_BYTES, 0)
    tail = os.pread(descriptor, _TAIL_BYTES, tail_start)
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        if os.pread(descriptor, 6, 0) == b"\x93NUMPY":
            raise ValueError("a single .npy array; expected an .npz archive")
        raise ValueError("no table of contents")
    _, count, length, start = _END.unpack_from(tail, end)
    if count > _MOST_ARRAYS or length > _MOST_CONTENTS_BYTES:
        raise ValueError(f"claims {count:,} arrays; expected at most {_MOST_ARRAYS:,}")
    if start < tail_start:
        tail, tail_start = os.pread(descriptor, length, start), start
    at = start - tail_start
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        fields = _ENTRY.unpack_from(tail, at)
        if fields[0] != b"PK\1\2":
            raise ValueError("the table of contents is damaged")
        name_bytes, extra_bytes, comment_bytes = fields[6:9]
        at += _ENTRY.size
        name = tail[at : at + name_bytes].decode("utf-8", "replace").removesuffix(".npy")
        if name in entries:
            raise ValueError(f"{name} is there twice")
        entries[name] = _Entry._make((*fields[1:6], fields[9]))
        at += name_bytes + extra_bytes + comment_bytes
    offsets = sorted({*(entry.offset for entry in entries.values()), start})
    if offsets[-1] > min(start, file_size):
        raise ValueError("the table of contents is damaged")
    return entries, dict(itertools.pairwise(offsets))


class Header(NamedTuple):
    """What a ``.npy`` file says of its array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    stop: int
    """Where the values begin."""


def parse_npy(content: bytes | bytearray | memoryview) -> np.ndarray:
    """The array of a whole ``.npy`` file, a view of ``content``.

    Raises ValueError if it is damaged, of another length than it claims, or would need unpickling.
    """
    shape, is_fortran, dtype, stop = parse_header(content)
    if dtype.hasobject:
        raise ValueError("holds Python objects; expected numbers")
    if len(content) - stop != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"has {len(content) - stop:,} bytes; expected {dtype} {_text(shape)}")
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    array = np.frombuffer(content, dtype, offset=stop)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


def parse_header(content: bytes | bytearray | memoryview) -> Header:
    """The header at the beginning of a ``.npy`` file. Raises ValueError if it is damaged."""
    stop = header_stop(bytes(content[:SHORTEST_NPY]))
    if stop > len(content):
        raise ValueError("has a damaged header")
    return _parse_header(bytes(content[:stop]))


def header_stop(beginning: bytes) -> int:
    """Where the header that begins so ends. Raises ValueError if it is damaged."""
    if not beginning.startswith(b"\x93NUMPY") or len(beginning) < SHORTEST_NPY:
        is_archive = beginning.startswith(b"PK\3\4")
        raise ValueError("is an .npz archive" if is_archive else "is no .npy array")
    # Magic string, version, length of the header, header (format version 1 or 2 and 3).
    length_bytes = 2 if beginning[6] == 1 else 4
    stop = 8 + length_bytes + int.from_bytes(beginning[8 : 8 + length_bytes], "little")
    if stop > _LONGEST_HEADER:
        raise ValueError("has a damaged header")
    return stop


@functools.lru_cache(maxsize=256)
def _parse_header(header: bytes) -> Header:
    file = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except (*MISFITS, MemoryError, SyntaxError, tokenize.TokenError):  # it parses Python's syntax
        raise ValueError("has a damaged header") from None
    if min(shape, default=0) < 0 or dtype.itemsize == 0:
        raise ValueError("has a damaged header")
    return Header(shape, is_fortran, dtype, len(header))


def _text(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) < 6 and max(shape, default=0) < 10**15 else "of that shape"
