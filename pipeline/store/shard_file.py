"""Writing the files of Zarr v3 arrays chunk by chunk, in the bytes that Zarr itself would write.

Zarr takes a shard only as a whole, uncompressed: 360 MB for 1,000 frames with images in CALVIN's
own sizes and depth. Here one chunk at a time is in memory, and the checksum is there at the end.

A file of a sharded array holds its chunks in order, and then 16 bytes per chunk: offset and length,
little-endian, all ones for a chunk beyond the end of the array; last the CRC32C of these. A file of
any other array is one chunk. A chunk is padded with zeros, then encoded by
:mod:`pipeline.store.chunk_codec`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from pipeline.artifacts.manifests import new_digest
from pipeline.store import chunk_codec
from wam.reliability.atomic import replacing

_NOT_WRITTEN = 2**64 - 1


class ShardFile:
    """A shard that is being written; :attr:`chunk` is to be filled, then :meth:`write_chunk`."""

    def __init__(
        self, file: BinaryIO, chunk_shape: tuple[int, ...], dtype: str, num_chunks: int, level: int
    ) -> None:
        self._stored = _zeros(chunk_shape, dtype)
        self.chunk = self._stored.transpose(chunk_codec.stored_axes(len(chunk_shape)))
        """The rows of the next chunk; the memory is used again for every chunk."""
        self._file = file
        self._level = level
        self._index = np.full((num_chunks, 2), _NOT_WRITTEN, "<u8")
        self._num_written = 0
        self._offset = 0
        self._digest = new_digest()

    def write_chunk(self, num_rows: int) -> None:
        """Append the first ``num_rows`` rows of :attr:`chunk`."""
        self.chunk[num_rows:] = 0
        content = chunk_codec.encode(self._stored, self._level)
        self._index[self._num_written] = self._offset, len(content)
        self._num_written += 1
        self._write(content)

    @property
    def entry(self) -> dict[str, Any]:
        """Its ``bytes`` and ``digest``, as a manifest has them, once it is complete."""
        return {"bytes": self._offset, "digest": self._digest.hexdigest()}

    def finish(self) -> None:
        """Append the index."""
        index = self._index.tobytes()
        self._write(index + google_crc32c.value(index).to_bytes(4, "little"))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._offset += len(content)


@contextlib.contextmanager
def writing_shard(
    path: Path, chunk_shape: tuple[int, ...], dtype: str, num_chunks: int, level: int
) -> Iterator[ShardFile]:
    """Yield the shard at ``path``, which appears when the block succeeds."""
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            shard = ShardFile(file, chunk_shape, dtype, num_chunks, level)
            yield shard
            shard.finish()


def write_chunk_file(path: Path, rows: np.ndarray, chunk_rows: int, level: int) -> dict[str, Any]:
    """Write ``rows`` [N, ...] as the only chunk of a file of ``chunk_rows`` rows.

    Returns its ``bytes`` and ``digest``.
    """
    stored = _zeros((chunk_rows, *rows.shape[1:]), rows.dtype)
    stored.transpose(chunk_codec.stored_axes(rows.ndim))[: len(rows)] = rows
    content = chunk_codec.encode(stored, level)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return {"bytes": len(content), "digest": new_digest(content).hexdigest()}


def _zeros(chunk_shape: tuple[int, ...], dtype: str | np.dtype) -> np.ndarray:
    """An empty chunk with its axes in stored order."""
    axes = chunk_codec.stored_axes(len(chunk_shape))
    return np.zeros([chunk_shape[axis] for axis in axes], np.dtype(dtype).newbyteorder("<"))
