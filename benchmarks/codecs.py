"""How chunks of images compress: sizes and times by length, order of the axes and Zstd level.

``python benchmarks/codecs.py STORE.zarr`` reads the images of a store that ``wam convert`` made.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numcodecs import Zstd
from rich.table import Table

from pipeline import console
from pipeline.calvin.fields import CAMERAS
from pipeline.store.open import open_store

Transform = Callable[[np.ndarray], np.ndarray]

ORDERS: dict[str, tuple[Transform, Transform]] = {
    "frame by frame": (lambda chunk: chunk, lambda stored: stored),
    "rows side by side": (lambda chunk: chunk.swapaxes(0, 1), lambda stored: stored.swapaxes(0, 1)),
    "each pixel's history": (
        lambda chunk: np.moveaxis(chunk, 0, -1),
        lambda stored: np.moveaxis(stored, -1, 0),
    ),
    "differences": (
        lambda chunk: np.diff(chunk, axis=0, prepend=np.zeros_like(chunk[:1])),
        lambda stored: np.cumsum(stored, axis=0, dtype=np.uint8),
    ),
}
TRIED = (
    (25, "frame by frame", 3),
    (50, "frame by frame", 3),
    (50, "frame by frame", 7),
    (50, "rows side by side", 7),
    (100, "rows side by side", 7),
    (125, "rows side by side", 7),
    (200, "rows side by side", 7),
    (50, "frame by frame", 19),
    (50, "differences", 3),
    (50, "each pixel's history", 3),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="a split of a store, such as training.zarr")
    parser.add_argument("--frames", type=int, default=1000, help="of each camera (default: 1000)")
    arguments = parser.parse_args(argv)
    store = open_store(arguments.store)
    images = [store.read(camera, 0, arguments.frames) for camera in CAMERAS]
    table = Table("frames", "order", "level", "bytes/frame", "compress us", "decompress us")
    for length, order, level in TRIED:
        table.add_row(str(length), order, str(level), *measure(images, length, order, level))
    console.console.print(table)


def measure(images: Sequence[np.ndarray], length: int, order: str, level: int) -> list[str]:
    """Bytes and microseconds per frame of both cameras together."""
    codec = Zstd(level=level)
    forth, back = ORDERS[order]
    size = frames = 0
    compressing = decompressing = 0.0
    for camera in images:
        for start in range(0, len(camera) - length + 1, length):
            chunk = camera[start : start + length]
            begin = time.perf_counter()
            stored = np.ascontiguousarray(forth(chunk))
            content = codec.encode(stored)
            middle = time.perf_counter()
            values = np.frombuffer(codec.decode(content), np.uint8).reshape(stored.shape)
            found = np.ascontiguousarray(back(values))
            decompressing += time.perf_counter() - middle
            compressing += middle - begin
            if not np.array_equal(found, chunk):
                raise SystemExit(f"{order}: decompressed images differ")
            size += len(content)
            frames += length
    frames //= len(images)
    return [
        f"{size / frames:.0f}",
        f"{compressing / frames * 1e6:.0f}",
        f"{decompressing / frames * 1e6:.1f}",
    ]


if __name__ == "__main__":
    main()
