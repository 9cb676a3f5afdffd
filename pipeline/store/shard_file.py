"""Writing the files of Zarr v3 arrays with Zarr, atomically and with their digests.

Zarr encodes a file in memory, where it is small. It is given a chunk at a time: a shard of 1,000
frames with images in CALVIN's own sizes and depth is 360 MB before that.
"""

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.artifacts.manifests import new_digest
from pipeline.store import chunk_codec
from wam.reliability.atomic import replacing


class ShardFile:
    """A shard in memory; :attr:`chunk` is to be filled, then :meth:`write_chunk`, :meth:`save`."""

    def __init__(
        self, chunk_shape: tuple[int, ...], dtype: str, num_chunks: int, level: int
    ) -> None:
        self.chunk = np.zeros(chunk_shape, dtype)
        """The rows of the next chunk; the memory is used again for every chunk."""
        shape = (num_chunks * chunk_shape[0], *chunk_shape[1:])
        self._files: dict[str, Any] = {}
        self._array = _create(self._files, shape, dtype, level, chunk_shape)
        self._num_rows = 0

    def write_chunk(self, num_rows: int) -> None:
        """Append the first ``num_rows`` rows of :attr:`chunk`, and zeros in place of the others."""
        self.chunk[num_rows:] = 0
        self._array[self._num_rows : self._num_rows + len(self.chunk)] = self.chunk
        self._num_rows += len(self.chunk)

    def save(self, path: Path) -> dict[str, Any]:
        """Write it to ``path``; its ``bytes`` and ``digest``, as a manifest has them."""
        return _save(self._files, self._array, path)


def write_chunk_file(path: Path, rows: np.ndarray, chunk_rows: int, level: int) -> dict[str, Any]:
    """Write ``rows`` [N, ...] as the only chunk of a file of ``chunk_rows`` rows.

    Returns its ``bytes`` and ``digest``.
    """
    files: dict[str, Any] = {}
    array = _create(files, (chunk_rows, *rows.shape[1:]), str(rows.dtype), level)
    array[: len(rows)] = rows
    return _save(files, array, path)


def _create(
    files: dict[str, Any],
    shape: tuple[int, ...],
    dtype: str,
    level: int,
    inner: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """An array of a single one of ``files``: a shard of chunks of ``inner``, or one chunk."""
    return zarr.create_array(
        files,
        shape=shape,
        dtype=dtype,
        chunks=inner or shape,
        shards=shape if inner else None,
        fill_value=0,
        # Of zeros, too: to the reader a missing chunk is damage.
        config={"write_empty_chunks": True},
        **chunk_codec.zarr_codecs(len(shape), dtype, level),
    )


def _save(files: dict[str, Any], array: zarr.Array[Any], path: Path) -> dict[str, Any]:
    key = array.metadata.encode_chunk_key((0,) * array.ndim)
    content = files[key].as_numpy_array()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return {"bytes": len(content), "digest": new_digest(content).hexdigest()}
