"""The data engine against what CALVIN's users have: reading, size, conversion, memory.

Frames of the embedded simulator are recorded once in CALVIN's own sizes (200x200 and 84x84, with
depth). Everything is measured on them, opponents in turn, so that the ratios of one run can be
trusted on a busy machine. A rate is that of the fastest round; a ratio is made of such rates.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import conversion
from frames import BATCH, NEEDED, WINDOW, add_options, raw_frames, record, size_of
from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.from_shards import shard_batches
from pipeline.batches.from_store import store_batches
from pipeline.batches.loader import BatchLoader, Delivery
from pipeline.calvin import on_disk
from pipeline.calvin.fields import CAMERAS
from pipeline.params import Profile, load_profile
from pipeline.pictures.images import to_model_size
from pipeline.stages import export
from pipeline.store.open import Store, open_store
from pipeline.webdataset.read import open_split
from turns import PARAMS, options, ratio, take_turns
from wam.device import keep_freed_memory
from wam.training.trainer import Trainer
from wam.world_model.model import WorldModel

READ = (*CAMERAS, "robot_obs", "rel_actions")
"""What a loader of windows reads of every frame."""
H100_FRAMES_PER_S = 40_000
BATCHES = {"windows": 10, "streams": 10, "shards": 100}
"""Of a turn. Tars are decoded where an epoch begins, so that a turn has to hold several."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
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
            **readers(profile, layout, work, arguments.rounds),
            **conversion.speed(profile, layout, work, arguments.rounds),
        }
        if not arguments.quick:
            result |= conversion.scale(layout, work)
    result["fed_h100_cores"] = {
        cache: round(H100_FRAMES_PER_S / result[f"frames_per_s_windows_{cache}"], 1)
        for cache in ("none", "ram")
    }
    console.figures(result, as_json=arguments.json)


def prepare(profile: Profile, layout: Layout) -> None:
    """Tars of the frames, and one 64x64 ``.npz`` per training frame."""
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
    stored = size_of(store_path(layout.store, "training"))
    files = size_of(small_frames(root))
    large = sum(path.stat().st_size for path in raw_frames(layout))
    return {
        "store_vs_npz_bytes": round(stored / files, 3),
        "store_vs_raw_bytes": round(stored / large, 4),
        "store_bytes_per_frame": round(stored / len(raw_frames(layout))),
    }


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
            {
                name: lambda loader=loader, count=BATCHES[name]: batches(loader, count)
                for name, loader in opened.items()
            },
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


def batches(loader: Iterator[Any], count: int) -> int:
    """Take ``count`` batches; the number of their frames."""
    frames = 0
    for _ in range(count):
        length, rows = next(loader).rgb_static.shape[:2]
        frames += length * rows
    return frames


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


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__)
    add_options(parser)
    parser.add_argument("--quick", action="store_true", help="leave out memory and large data sets")
    return parser


if __name__ == "__main__":
    main()
