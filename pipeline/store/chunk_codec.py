"""How the store's chunks are encoded: one description for Zarr, the writer, and for our reader.

Rows [N, H, ...] are laid out as [H, N, ...], which brings the same row of pixels of successive
frames, and the same number of successive vectors, next to each other. Images are then compressed
with Zstd, whose window spans a chunk and so removes the still background (depth too: no codec does
better on its floats without loss). Of vectors the first bytes of all numbers come first, then the
second ones, and so on (Blosc's shuffle), before Zstd; Blosc has no checksum, so a CRC32C follows.
"""

from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress as decompress_blosc
from numcodecs.zstd import decompress as decompress_zstd
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec, ZstdCodec

_VECTOR_LEVEL = 5
"""Blosc's, of 1 to 9; vectors are small, so it costs nothing."""
CRC_BYTES = 4


def zarr_codecs(rank: int, dtype: str, zstd_level: int) -> dict[str, Any]:
    """Arguments of ``zarr.create_array`` for an array of ``rank`` axes, rows included."""
    compressors = (
        ZstdCodec(level=zstd_level, checksum=True)
        if rank > 2
        else (
            BloscCodec(
                typesize=np.dtype(dtype).itemsize,
                cname="zstd",
                clevel=_VECTOR_LEVEL,
                shuffle="shuffle",
            ),
            Crc32cCodec(),
        )
    )
    filters = [TransposeCodec(order=stored_axes(rank))] if rank > 1 else None
    return {"filters": filters, "compressors": compressors}


def stored_axes(rank: int) -> tuple[int, ...]:
    """The order in which a chunk's axes are stored; applied twice it is the chunk's own again."""
    return (1, 0, *range(2, rank)) if rank > 1 else (0,)


def codec_names(rank: int) -> list[str]:
    """What ``zarr.json`` lists for an array of ``rank`` axes."""
    compression = ["zstd"] if rank > 2 else ["blosc", "crc32c"]
    return [*(["transpose"] if rank > 1 else []), "bytes", *compression]


def decode(content: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The chunk [N, ...] of ``shape``. Raises ValueError or RuntimeError if it is damaged."""
    if len(shape) > 2:
        stored = decompress_zstd(content)
    else:
        stored = decompress_blosc(without_checksum(content, "the chunk"))
    axes = stored_axes(len(shape))
    return np.frombuffer(stored, dtype).reshape([shape[axis] for axis in axes]).transpose(axes)


def without_checksum(content: bytes, what: str) -> bytes:
    """``content`` without the CRC32C at its end. Raises ValueError if ``what`` does not fit it."""
    body = content[:-CRC_BYTES]
    if google_crc32c.value(body).to_bytes(CRC_BYTES, "little") != content[-CRC_BYTES:]:
        raise ValueError(f"checksum of {what} is wrong")
    return body
