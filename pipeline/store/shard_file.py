"""Writing the files of Zarr v3 arrays with Zarr, atomically and with their digests.

Zarr encodes a file in memory, where it is small. It is given a chunk at a time: a shard of 1,000
frames with images in CALVIN's own sizes and depth is 360 MB before that.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.artifacts.manifests import new_digest
from pipeline.store import chunk_codec
from wam.reliability.atomic import replacing


class ShardFile:
    """A shard that is being written; :attr:`chunk` is to be filled, then :meth:`write_chunk`."""

    def __init__(
        self, chunk_shape: tuple[int, ...], dtype: str, num_chunks: int, level: int
    ) -> None:
        self.chunk = np.zeros(chunk_shape, dtype)
        """The rows of the next chunk; the memory is used again for every chunk."""
        self.entry: dict[str, Any] = {}
        """Its ``bytes`` and ``digest``, as a manifest has them, once it is complete."""
        shape = (num_chunks * chunk_shape[0], *chunk_shape[1:])
        self._file = _File(shape, np.dtype(dtype), level, chunk_shape)
        self._num_rows = 0

    def write_chunk(self, num_rows: int) -> None:
        """Append the first ``num_rows`` rows of :attr:`chunk`, and zeros in place of the others."""
        self.chunk[num_rows:] = 0
        self._file.write(self._num_rows, self.chunk)
        self._num_rows += len(self.chunk)

    def save(self, path: Path) -> None:
        """Write it to ``path``."""
        self.entry = self._file.save(path)


@contextlib.contextmanager
def writing_shard(
    path: Path, chunk_shape: tuple[int, ...], dtype: str, num_chunks: int, level: int
) -> Iterator[ShardFile]:
    """Yield the shard at ``path``, which appears when the block succeeds."""
    shard = ShardFile(chunk_shape, dtype, num_chunks, level)
    yield shard
    shard.save(path)


def write_chunk_file(path: Path, rows: np.ndarray, chunk_rows: int, level: int) -> dict[str, Any]:
    """Write ``rows`` [N, ...] as the only chunk of a file of ``chunk_rows`` rows.

    Returns its ``bytes`` and ``digest``.
    """
    file = _File((chunk_rows, *rows.shape[1:]), rows.dtype, level)
    file.write(0, rows)
    return file.save(path)


class _File:
    """An array of a single file, in memory: a shard of chunks of ``inner``, or one chunk."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        level: int,
        inner: tuple[int, ...] | None = None,
    ) -> None:
        self._files: dict[str, Any] = {}
        self._array = zarr.create_array(
            self._files,
            shape=shape,
            dtype=dtype,
            chunks=inner or shape,
            shards=shape if inner else None,
            fill_value=0,
            # Of zeros, too: to the reader a missing chunk is damage.
            config={"write_empty_chunks": True},
            **chunk_codec.zarr_codecs(len(shape), str(dtype), level),
        )

    def write(self, start: int, rows: np.ndarray) -> None:
        self._array[start : start + len(rows)] = rows

    def save(self, path: Path) -> dict[str, Any]:
        key = self._array.metadata.encode_chunk_key((0,) * self._array.ndim)
        content = self._files[key].as_numpy_array()
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        return {"bytes": len(content), "digest": new_digest(content).hexdigest()}
