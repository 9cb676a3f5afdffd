"""Reading rows of the store's arrays without what Zarr adds to every read.

The files are plain Zarr v3. One of an image array is a shard: chunks, then an index of their places
that ends with its CRC32C. One of any other array is a single chunk.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import manifests
from pipeline.store import chunk_codec
from wam.errors import WamError

_INDEX_CODECS = ["bytes", "crc32c"]
_INDEX_ENTRY_BYTES = 16
_NOT_WRITTEN = 2**64 - 1
"""In the index of a shard: there is no such chunk."""


class ArrayReader:
    """Rows of the array [N, ...] in ``directory``; several threads may read at once.

    Raises WamError if its layout is not the one that ``wam convert`` writes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        metadata = manifests.read_json(directory / "zarr.json")
        try:
            self.shape: tuple[int, ...] = tuple(metadata["shape"])
            self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
            file_shape = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            codecs = metadata["codecs"]
            self._sharded = codecs[0]["name"] == "sharding_indexed"
            chunk_shape = file_shape
            if self._sharded:
                sharding = codecs[0]["configuration"]
                chunk_shape, codecs = sharding["chunk_shape"], sharding["codecs"]
                _expect(directory, _names(sharding["index_codecs"]), _INDEX_CODECS)
                _expect(directory, sharding["index_location"], "end")
            _expect(directory, _names(codecs), chunk_codec.codec_names(len(self.shape)))
            if codecs[0]["name"] == "transpose":
                order = codecs[0]["configuration"]["order"]
                _expect(directory, order, list(chunk_codec.stored_axes(len(self.shape))))
            _expect(directory, metadata["chunk_key_encoding"]["configuration"]["separator"], ".")
        except (IndexError, KeyError, TypeError) as error:
            raise WamError(f"{directory}/zarr.json: no metadata of an array ({error!r})") from None
        _expect(directory, (*chunk_shape[1:], *file_shape[1:]), self.shape[1:] * 2)
        self._chunk_shape: tuple[int, ...] = tuple(chunk_shape)
        self._chunk_rows = self._chunk_shape[0]
        self._file_chunks = file_shape[0] // self._chunk_rows
        self._indexes: dict[int, list[tuple[int, int]]] = {}

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows [start, stop) as a new array. Raises WamError naming a file that is damaged."""
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1
        values = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        self.copy(start, values)
        return values

    def copy(self, start: int, target: np.ndarray) -> None:
        """Copy the rows from ``start`` on over all rows of ``target``, in memory of any order.

        Raises WamError naming a file that is damaged.
        """
        count, stop = self._chunk_rows, start + len(target)
        assert stop <= self.shape[0]
        for chunk in range(start // count, -(-stop // count)):
            first = chunk * count
            low, high = max(start, first), min(stop, first + count)
            target[low - start : high - start] = self._chunk(chunk)[low - first : high - first]

    def _chunk(self, chunk: int) -> np.ndarray:
        number, place = divmod(chunk, self._file_chunks)
        file = f"{self._directory}/c.{number}" + ".0" * (len(self.shape) - 1)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            raise WamError(f"{file}: missing; run 'wam convert' again") from None
        try:
            offset, length = self._index(number, descriptor)[place]
            if offset == _NOT_WRITTEN:
                raise ValueError("the chunk was never written")
            content = os.pread(descriptor, length, offset)
            return chunk_codec.decode(content, self.dtype, self._chunk_shape)
        except (OSError, RuntimeError, ValueError) as error:
            first = chunk * self._chunk_rows
            raise WamError(
                f"{file}: damaged between rows {first} and {first + self._chunk_rows} ({error}); "
                "run 'wam convert' again"
            ) from None
        finally:
            os.close(descriptor)

    def _index(self, number: int, descriptor: int) -> list[tuple[int, int]]:
        """Offset and length (bytes) of every chunk of a file."""
        if number not in self._indexes:
            size = os.fstat(descriptor).st_size
            self._indexes[number] = (
                _read_index(descriptor, size, self._file_chunks) if self._sharded else [(0, size)]
            )
        return self._indexes[number]


def _read_index(descriptor: int, size: int, chunks: int) -> list[tuple[int, int]]:
    length = chunks * _INDEX_ENTRY_BYTES + chunk_codec.CRC_BYTES
    if size < length:
        raise ValueError(f"{size} bytes are too few for the index")
    content = os.pread(descriptor, length, size - length)
    index = np.frombuffer(chunk_codec.without_checksum(content, "the index"), "<u8")
    return [(offset, length) for offset, length in index.reshape(chunks, 2).tolist()]


def _names(codecs: list[dict[str, Any]]) -> list[str]:
    return [codec["name"] for codec in codecs]


def _expect(directory: Path, found: object, expected: object) -> None:
    if found != expected:
        raise WamError(
            f"{directory}/zarr.json: found {found}, expected {expected} as 'wam convert' writes it"
        )
