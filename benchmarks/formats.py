"""The store's format by hand against zarr-python and zarrs: writing and reading its arrays.

Frames of the embedded simulator are recorded once and converted. Everyone writes and reads the same
arrays of that store, in turn, so that the ratios of one run can be trusted on a busy machine. A
rate is that of the fastest round; a ratio is made of such rates.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from frames import BATCH, WINDOW, add_options, record
from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.calvin.fields import CAMERAS
from pipeline.store.open import Store, open_store
from pipeline.store.shard_file import ShardFile, write_chunk_file
from turns import options, ratio, take_turns

LIBRARIES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarr_fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
"""Codec pipelines of zarr-python that read and write our arrays, too: its default, an experimental
one that its versions for Python 3.12 and newer have, and that of the package ``zarrs``."""

WriteShard = Callable[[str, int], None]
"""Writes one shard (array, number)."""
CopyRows = Callable[[str, int, np.ndarray], None]
"""Copies the rows of an array from one on over all rows of the target."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    if arguments.of is not None:
        store, cores = arguments.of
        result = formats_here(Path(store), int(cores), arguments.rounds)
    else:
        with tempfile.TemporaryDirectory(prefix="wam-formats-") as scratch:
            layout = Layout(arguments.data or Path(scratch))
            record(layout.root, arguments.frames)
            result = formats(store_path(layout.store, "training"), arguments.rounds)
    console.figures(result, as_json=arguments.json)


def formats(store: Path, rounds: int) -> dict[str, Any]:
    """The store's arrays written and read by us and by zarr-python with either codec pipeline.

    In a process of its own that has one core, or two: its threads then never have more.
    """
    result = {}
    for cores in (1, 2):
        found = subprocess.run(
            [
                *(sys.executable, __file__, "--of", str(store), str(cores)),
                *("--rounds", str(rounds), "--json"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=partial(os.sched_setaffinity, 0, sorted(os.sched_getaffinity(0))[:cores]),
        )
        result[f"formats_{cores}_core"] = json.loads(found.stdout.splitlines()[-1])
    return result


def formats_here(path: Path, cores: int, rounds: int) -> dict[str, Any]:
    """Frames per second of every use of the format, by who reads or writes; ``ours_vs_best``.

    On one core it is of processor time, which other programs do not take away. Shards and windows
    come from as many threads as there are cores, and a library may use as many again; all images
    are decoded for one thread, as :mod:`pipeline.batches.decoded` does it.
    """
    clock = time.process_time if cores == 1 else time.perf_counter
    store = open_store(path)
    installed = {name: pipeline for name, pipeline in LIBRARIES.items() if has(pipeline)}
    with (
        tempfile.TemporaryDirectory(prefix="wam-formats-") as scratch,
        ThreadPoolExecutor(cores) as pool,
    ):
        copies = {name: metadata_copy(path, Path(scratch) / name) for name in ("ours", *installed)}
        writers = {"ours": own_writer(store, copies["ours"])}
        copiers: dict[str, CopyRows] = {
            "ours": lambda name, at, to: store.reader(name).copy(at, to)
        }
        for name, pipeline in installed.items():
            writers[name] = library_writer(store, copies[name], pipeline, cores)
            copiers[name] = library_copier(path, pipeline, cores)
        contests: dict[str, dict[str, Callable[[], int]]] = {
            "write_images": {
                who: partial(write_shards, store, CAMERAS, write, pool)
                for who, write in writers.items()
            },
            "write_vectors": {
                who: partial(write_shards, store, vectors(store), write, pool)
                for who, write in writers.items()
            },
            "read_all_images": {
                who: partial(read_all, store, CAMERAS, copy) for who, copy in copiers.items()
            },
            "read_windows": {
                who: partial(read_windows, store, copy, pool) for who, copy in copiers.items()
            },
            "read_vectors": {
                who: partial(read_all, store, vectors(store), copy) for who, copy in copiers.items()
            },
        }
        result: dict[str, Any] = {}
        for use, contestants in contests.items():
            rates = take_turns(contestants, rounds, clock)
            best = {who: max(found) for who, found in rates.items()}
            result[use] = {
                "ours_vs_best": ratio(best["ours"], max(best[name] for name in installed)),
                **{who: round(rate) for who, rate in best.items()},
            }
        for name in LIBRARIES.keys() - installed:
            result[name] = f"not installed: {LIBRARIES[name]} (pip install {name.split('_')[0]})"
        for name in installed:
            result[f"{name}_same_files"] = same_files(path, copies[name])
    return result


def has(name: str) -> bool:
    """Whether the class of this dotted name is installed."""
    module, _, found = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), found)
    except ImportError:
        return False


def vectors(store: Store) -> list[str]:
    """The store's arrays that are no images."""
    return [name for name, array in store.arrays.items() if not array.is_image]


def metadata_copy(store: Path, target: Path) -> Path:
    """A copy of a split's store without the content of its arrays."""
    return Path(shutil.copytree(store, target, ignore=shutil.ignore_patterns("c.*")))


def own_writer(store: Store, target: Path) -> WriteShard:
    """Writes as conversion does: durably, and knowing the file's digest."""
    settings = store.attrs["parameters"]
    shard_frames, chunk_frames = settings["shard_frames"], settings["chunk_frames"]
    level = settings["zstd_level"]
    content = {name: store.read(name) for name in store.arrays}

    def write(name: str, number: int) -> None:
        array = store.arrays[name]
        rows = content[name][number * shard_frames :][:shard_frames]
        file = target / name / ".".join(["c", str(number), *("0" for _ in array.shape)])
        if not array.is_image:
            write_chunk_file(file, rows, shard_frames, level)
            return
        chunk = (chunk_frames, *array.shape)
        chunks = shard_frames // chunk_frames
        shard = ShardFile(chunk, array.dtype, chunks, level)
        for start in range(0, len(rows), chunk_frames):
            part = rows[start : start + chunk_frames]
            shard.chunk[: len(part)] = part
            shard.write_chunk(len(part))
        shard.save(file)

    return write


def library_writer(store: Store, target: Path, pipeline: str, threads: int) -> WriteShard:
    """Writes whole shards, which neither library syncs to the disk or digests."""
    shard_frames = store.attrs["parameters"]["shard_frames"]
    content = {name: store.read(name) for name in store.arrays}
    arrays = library_arrays(target, "r+", pipeline, threads)

    def write(name: str, number: int) -> None:
        rows = slice(number * shard_frames, min((number + 1) * shard_frames, store.num_frames))
        arrays[name][rows] = content[name][rows]

    return write


def library_copier(path: Path, pipeline: str, threads: int) -> CopyRows:
    arrays = library_arrays(path, "r", pipeline, threads)

    def copy(name: str, start: int, target: np.ndarray) -> None:
        target[...] = arrays[name][start : start + len(target)]

    return copy


def library_arrays(path: Path | str, mode: Any, pipeline: str, threads: int) -> dict[str, Any]:
    """The arrays of a group by name, read and written by one of LIBRARIES."""
    settings = {
        "codec_pipeline.path": pipeline,
        "codec_pipeline.strict": True,  # no silent detour through another pipeline
        "threading.max_workers": threads,
        "array.write_empty_chunks": True,
    }
    with zarr.config.set(settings):
        return dict(zarr.open_group(path, mode=mode).arrays())


def write_shards(
    store: Store, names: Sequence[str], write: WriteShard, pool: ThreadPoolExecutor
) -> int:
    """Write the arrays ``names``; the number of frames."""
    count = -(-store.num_frames // store.attrs["parameters"]["shard_frames"])
    for name in names:
        list(pool.map(partial(write, name), range(count)))
    return store.num_frames


def read_all(store: Store, names: Sequence[str], copy: CopyRows) -> int:
    """Read all rows of the arrays ``names``, a thousand at a time."""
    for name in names:
        array = store.arrays[name]
        target = np.empty((min(1000, store.num_frames), *array.shape), array.dtype)
        for start in range(0, store.num_frames, 1000):
            copy(name, start, target[: store.num_frames - start])
    return store.num_frames


def read_windows(store: Store, copy: CopyRows, pool: ThreadPoolExecutor) -> int:
    """Read both cameras' images of twelve batches of random windows, the same for everyone."""
    starts = np.random.default_rng(0).integers(store.num_frames - WINDOW, size=(12, BATCH))

    def read(batch: np.ndarray) -> int:
        for camera in CAMERAS:
            shape = store.arrays[camera].shape
            images = np.empty((WINDOW, BATCH, *shape), np.uint8)
            for row, start in enumerate(batch.tolist()):
                copy(camera, start, images[:, row])
        return WINDOW * BATCH

    return sum(pool.map(read, starts))


def same_files(store: Path, copy: Path) -> bool:
    """Whether what was written to ``copy`` is, byte for byte, what the store has."""
    return all(
        file.read_bytes() == (store / file.relative_to(copy)).read_bytes()
        for file in copy.rglob("c.*")
    )


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_options(parser)
    parser.add_argument("--of", nargs=2, metavar=("STORE", "CORES"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
