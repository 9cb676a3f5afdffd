"""The data engine against what CALVIN's users have: reading, size, conversion, memory.

Frames of the embedded simulator are recorded once in CALVIN's own sizes (200x200 and 84x84, with
depth). Everything is measured on them, opponents in turn, so that the ratios of one run can be
trusted on a busy machine. A rate is that of the fastest round; a ratio is made of such rates.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
import zarr

from pipeline import console, workers
from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.batches.from_shards import shard_batches
from pipeline.batches.from_store import store_batches
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.calvin import on_disk, small_files
from pipeline.calvin.fields import CAMERAS, VECTORS
from pipeline.params import Profile, load_profile
from pipeline.pictures.images import to_model_size
from pipeline.stages import collect, convert, export, index
from pipeline.store.open import Store, open_store
from pipeline.store.shard_file import ShardFile, write_chunk_file
from pipeline.webdataset.read import open_split
from wam.device import keep_freed_memory
from wam.training.trainer import Trainer
from wam.world_model.model import WorldModel

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
WINDOW, BATCH = 50, 8
NEEDED = (*CAMERAS, *VECTORS)
READ = (*CAMERAS, "robot_obs", "rel_actions")
"""What a loader of windows reads of every frame."""
CONVERTED = 7_500
SCALE = (4_000, 10_000, 20_000)
EXTRAPOLATED = (512_000, 2_400_000)
H100_FRAMES_PER_S = 40_000
LIBRARIES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarr_fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
"""Codec pipelines of zarr-python that read and write our arrays, too: its default, an experimental
one that its versions for Python 3.12 and newer have, and that of the package ``zarrs``."""

Rates = dict[str, list[float]]
WriteShard = Callable[[str, int], None]
"""Writes one shard (array, number)."""
CopyRows = Callable[[str, int, np.ndarray], None]
"""Copies the rows of an array from one on over all rows of the target."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    if arguments.convert is not None:
        convert_all(*arguments.convert)
        return
    if arguments.formats_of is not None:
        store, cores, rounds = arguments.formats_of
        console.figures(formats_here(Path(store), int(cores), int(rounds)), as_json=True)
        return
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="wam-data-") as scratch:
        root = arguments.data or Path(scratch)
        profile = record(root, arguments.frames)
        layout = Layout(root)
        prepare(profile, layout)
        work = Path(scratch) / "work"
        result = {
            **windows(layout, root, arguments.rounds),
            **size(layout, root),
            **formats(store_path(layout.store, "training"), arguments.rounds),
            **readers(profile, layout, work, arguments.rounds),
            **conversion(profile, layout, work, arguments.rounds),
        }
        if not arguments.quick:
            result |= scale(layout, work)
    result["fed_h100_cores"] = {
        cache: round(H100_FRAMES_PER_S / result[f"frames_per_s_windows_{cache}"], 1)
        for cache in ("none", "ram")
    }
    console.figures(result, as_json=arguments.json)


def record(root: Path, frames: int) -> Profile:
    """A profile whose raw frames lie below ``root``; they are recorded unless they are there."""
    base = load_profile("ci", PARAMS)
    settings = replace(
        base.collect,
        training_frames=frames,
        validation_frames=frames // 4,
        episode_frames=frames // 4,
        static_size=200,
        gripper_size=84,
        depth=True,
    )
    profile = replace(base, collect=settings)
    collect.run(profile, Layout(root))
    return replace(
        profile,
        raw=replace(base.raw, path=str(Layout(root).raw)),
        convert=replace(base.convert, shard_frames=500),
    )


def prepare(profile: Profile, layout: Layout) -> None:
    """Index, store and tars of the frames, and one 64x64 ``.npz`` per training frame."""
    index.run(profile, layout)
    convert.run(profile, layout, map)
    export.run(profile, layout)
    target = small_frames(layout.root)
    target.mkdir(exist_ok=True)
    for path in raw_frames(layout):
        if not (target / path.name).is_file():
            frame = on_disk.read_frame(path, NEEDED)
            for camera in CAMERAS:
                frame[camera] = to_model_size(frame[camera])
            np.savez_compressed(target / path.name, **frame)


def small_frames(root: Path) -> Path:
    """Directory of the 64x64 frames."""
    return root / "npz64"


def raw_frames(layout: Layout) -> list[Path]:
    """The training frames in order."""
    return sorted((layout.raw / "training").glob("episode_*.npz"))


def windows(layout: Layout, root: Path, rounds: int) -> dict[str, Any]:
    """Random windows of 50 frames with both cameras: the store against files, on one thread."""
    store = open_store(store_path(layout.store, "training"))
    small, large = sorted(small_frames(root).iterdir()), raw_frames(layout)
    rng = np.random.default_rng(0)
    with (
        _windows(store, "none") as compressed,
        _windows(store, "ram") as in_memory,
    ):

        def files(paths: list[Path], resize: bool) -> int:
            start = int(rng.integers(len(paths) - WINDOW))
            read_files(paths[start : start + WINDOW], resize)
            return WINDOW

        rates = take_turns(
            {
                "windows_none": lambda: batches(compressed, 12),
                "windows_ram": lambda: batches(in_memory, 60),
                "npz": lambda: sum(files(small, False) for _ in range(6)),
                "raw_npz": lambda: sum(files(large, True) for _ in range(2)),
            },
            rounds,
        )
    best = {name: max(found) for name, found in rates.items()}
    return {
        "windows_vs_npz": ratio(best["windows_none"], best["npz"]),
        "windows_ram_vs_npz": ratio(best["windows_ram"], best["npz"]),
        "windows_vs_raw_npz": ratio(best["windows_none"], best["raw_npz"]),
        **{f"frames_per_s_{name}": round(rate) for name, rate in best.items()},
    }


def read_files(paths: Sequence[Path], resize: bool) -> dict[str, np.ndarray]:
    """A window as loaders of per-frame files read it."""
    frames: dict[str, list[np.ndarray]] = {name: [] for name in READ}
    for path in paths:
        with np.load(path) as file:
            for name in READ:
                value = file[name]
                if resize and name in CAMERAS:
                    value = cv2.resize(value, (64, 64), interpolation=cv2.INTER_AREA)
                frames[name].append(value)
    return {name: np.stack(values) for name, values in frames.items()}


def size(layout: Layout, root: Path) -> dict[str, Any]:
    """Bytes of the store against those of the same frames as 64x64 files."""
    stored = _bytes(store_path(layout.store, "training"))
    files = _bytes(small_frames(root))
    large = sum(path.stat().st_size for path in raw_frames(layout))
    return {
        "store_vs_npz_bytes": round(stored / files, 3),
        "store_vs_raw_bytes": round(stored / large, 4),
        "store_bytes_per_frame": round(stored / len(raw_frames(layout))),
    }


def formats(store: Path, rounds: int) -> dict[str, Any]:
    """The store's arrays written and read by us and by zarr-python with either codec pipeline.

    In a process of its own that has one core, or two: its threads then never have more.
    """
    result = {}
    for cores in (1, 2):
        found = subprocess.run(
            [sys.executable, __file__, "--formats-of", str(store), str(cores), str(rounds)],
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
    are decoded for one thread, as :mod:`pipeline.frame_cache` does it.
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


def library_arrays(path: Path, mode: Any, pipeline: str, threads: int) -> dict[str, Any]:
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


def readers(profile: Profile, layout: Layout, work: Path, rounds: int) -> dict[str, Any]:
    """Each reader with one worker against what training the ``small`` world model consumes."""
    store = open_store(store_path(layout.store, "training"))
    one = Delivery(workers=1)
    kinds: dict[str, Callable[[], BatchLoader[Any]]] = {
        "windows": lambda: _windows(store, "none", one),
        "streams": lambda: store_batches(
            store, "streams", batch=BATCH, window=WINDOW, seed=0, delivery=one
        ),
        "shards": lambda: shard_batches(
            open_split(layout.shards, "training"),
            batch=2,
            window=WINDOW,
            seed=0,
            delivery=one,
        ),
    }
    opened = {name: make() for name, make in kinds.items()}
    try:
        rates = take_turns(
            {name: lambda loader=loader: batches(loader, 10) for name, loader in opened.items()},
            rounds,
        )
    finally:
        for loader in opened.values():
            loader.close()
    training = training_rate(store, work)
    slowest = min(max(found) for found in rates.values())
    return {
        "stream_vs_training": ratio(slowest, training),
        **{f"{name}_vs_training": ratio(max(found), training) for name, found in rates.items()},
        **{f"frames_per_s_{name}_1_worker": round(max(found)) for name, found in rates.items()},
        "frames_per_s_training_small": round(training),
    }


def training_rate(store: Store, work: Path) -> float:
    """Frames per second that training the ``small`` world model takes on this machine."""
    small = load_profile("small", PARAMS)
    training = replace(small.train_world_model, updates=6, log_every=1)
    work.mkdir(parents=True, exist_ok=True)
    times = [time.perf_counter()]
    with store_batches(
        store, "streams", batch=training.batch, window=training.window, seed=0, cache="ram"
    ) as loader:
        trainer = Trainer(
            WorldModel(small.world_model, seed=0),
            loader,
            training,
            action_scale=small.world_model.action_scale,
            directory=work,
            device=torch.device("cpu"),
        )
        trainer.run(lambda step, record: times.append(time.perf_counter()))
    fastest = min(after - before for before, after in pairwise(times[1:]))
    return training.batch * training.window / fastest


def conversion(profile: Profile, layout: Layout, work: Path, rounds: int) -> dict[str, Any]:
    """Converting frames against merely inflating what is needed of them."""
    source = Layout(work / "source")
    multiply(layout.raw, source.raw, CONVERTED)
    profile = replace(profile, raw=replace(profile.raw, path=str(source.raw)))
    index.run(profile, source)
    paths = [p for split in SPLITS for p in sorted((source.raw / split).glob("episode_*.npz"))]
    two = replace(profile.convert, workers=2)
    with workers.job_runner(two) as on_two:

        def converted(run_jobs: workers.JobRunner) -> int:
            target = Layout(work / "converted")
            shutil.rmtree(target.root, ignore_errors=True)
            shutil.copytree(source.index, target.index)
            convert.run(profile, target, run_jobs)
            return len(paths)

        converted(on_two)  # the workers have imported everything by now
        rates = take_turns(
            {
                "inflate": lambda: inflate(paths),
                "convert": lambda: converted(map),
                "convert_2_workers": lambda: converted(on_two),
            },
            rounds,
        )
    shutil.rmtree(source.root)
    best = {name: max(found) for name, found in rates.items()}
    pairs = zip(rates["convert_2_workers"], rates["convert"], strict=True)
    return {
        "convert_vs_inflate": ratio(best["convert"], best["inflate"]),
        "convert_scaling_2_workers": round(statistics.median(two / one for two, one in pairs), 2),
        **{f"frames_per_s_{name}": round(rate) for name, rate in best.items()},
    }


def inflate(paths: Sequence[Path]) -> int:
    """Open every frame and inflate the arrays that conversion needs, nothing more."""
    for path in paths:
        with zipfile.ZipFile(path) as file:
            for name in NEEDED:
                file.read(f"{name}.npy")
    return len(paths)


def scale(layout: Layout, work: Path) -> dict[str, Any]:
    """Time, disk and memory of whole conversions of more and more frames, and beyond."""
    rows = []
    for frames in SCALE:
        source, target = work / f"raw-{frames}", work / f"store-{frames}"
        multiply(layout.raw, source, frames)
        command = [sys.executable, __file__, "--convert", str(source), str(target)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = peak_memory(process)
        if process.returncode:
            raise SystemExit(f"conversion of {frames} frames failed")
        seconds = time.perf_counter() - start
        rows.append(
            {
                "frames": frames,
                "seconds": round(seconds, 1),
                "megabytes": round(_bytes(target / "store") / 1e6, 1),
                "peak_megabytes": round(peak / 1e6),
            }
        )
        shutil.rmtree(source)
        shutil.rmtree(target)
    frames_, seconds_, megabytes_ = (
        np.array([row[key] for row in rows], float) for key in ("frames", "seconds", "megabytes")
    )
    time_line, size_line = (np.polyfit(frames_, values, 1) for values in (seconds_, megabytes_))
    raw_bytes = _bytes(layout.raw / "training") / len(raw_frames(layout))
    return {
        "memory_20000_vs_4000": round(rows[-1]["peak_megabytes"] / rows[0]["peak_megabytes"], 2),
        "scale": rows,
        "extrapolated": {
            str(frames): {
                "hours_2_workers": round(float(np.polyval(time_line, frames)) / 3600, 2),
                "store_gigabytes": round(float(np.polyval(size_line, frames)) / 1000, 1),
                "raw_gigabytes": round(raw_bytes * frames / 1e9, 1),
                "peak_megabytes": rows[-1]["peak_megabytes"],
            }
            for frames in EXTRAPOLATED
        },
    }


def multiply(source: Path, target: Path, frames: int) -> None:
    """A data set of ``frames`` training frames whose files are links to those of ``source``."""
    for split, count in (("training", frames), ("validation", 500)):
        directory = target / split
        directory.mkdir(parents=True)
        files = sorted((source / split).glob("episode_*.npz"))
        for frame_id, path in enumerate(islice(cycle(files), count)):
            os.link(path, on_disk.frame_path(directory, frame_id))
        small_files.write_npy(directory / on_disk.EPISODE_TABLE, np.array([[0, count - 1]]))


def convert_all(source: Path, target: Path) -> None:
    """Index and convert the frames below ``source`` on two workers."""
    base = load_profile("ci", PARAMS)
    profile = replace(
        base,
        raw=replace(base.raw, path=str(source)),
        convert=replace(base.convert, workers=2),
    )
    index.run(profile, Layout(target))
    convert.run(profile, Layout(target))


def peak_memory(process: "subprocess.Popen[bytes]") -> int:
    """Wait for ``process``; the most bytes that it and its children had in memory together."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not done.wait(0.1):
            try:
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            peak = max(peak, sum(_resident(member) for member in family))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    done.set()
    watcher.join()
    return peak


def take_turns(
    contestants: dict[str, Callable[[], int]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Frames per second of each in every round; a contestant returns its number of frames."""
    rates: Rates = {name: [] for name in contestants}
    title = ", ".join(contestants)
    with console.progress(title, (rounds + 1) * len(contestants), "rounds") as advance:
        for turn in range(rounds + 1):
            for name, run in contestants.items():
                start = clock()
                frames = run()
                if turn:  # the first round warms up
                    rates[name].append(frames / (clock() - start))
                advance()
    return rates


def batches(loader: Iterator[Any], count: int) -> int:
    """Take ``count`` batches; the number of their frames."""
    frames = 0
    for _ in range(count):
        length, rows = next(loader).rgb_static.shape[:2]
        frames += length * rows
    return frames


def ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 2)


def _windows(store: Store, cache: Any, delivery: Delivery | None = None) -> BatchLoader[Any]:
    return store_batches(
        store,
        "windows",
        batch=BATCH,
        window=WINDOW,
        seed=0,
        cache=cache,
        delivery=delivery or Delivery(workers=0),
    )


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=2000, help="training frames to record")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the recorded frames here and use them again"
    )
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--quick", action="store_true", help="leave out memory and large data sets")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--convert", nargs=2, type=Path, metavar=("RAW", "OUTPUT"), help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--formats-of", nargs=3, metavar=("STORE", "CORES", "ROUNDS"), help=argparse.SUPPRESS
    )
    return parser


if __name__ == "__main__":
    main()
