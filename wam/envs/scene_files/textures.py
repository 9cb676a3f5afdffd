"""Procedural textures as PNG bytes."""

import struct
import zlib

import numpy as np


def png(image: np.ndarray) -> bytes:
    """PNG file of ``image`` uint8 [H, W, 3]."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def wood(colour: tuple[int, int, int], size: int = 128) -> bytes:
    """A tile of wood with its grain along the first texture coordinate.

    The grain is broad and faint: at 64x64 pixels anything finer would only be sampling noise.
    """
    v, u = np.mgrid[0:size, 0:size] / size * 2 * np.pi
    grain = np.sin(3 * v + 0.8 * np.sin(u)) + 0.5 * np.sin(7 * v + 1.3 * np.sin(u + 1.0))
    shade = 1.0 + 0.05 * grain
    image = np.asarray(colour, dtype=np.float64) * shade[..., None]
    return png(np.clip(image, 0, 255).astype(np.uint8))
