"""Conversion of frames: against merely inflating them, and how it scales.

``python benchmarks/conversion.py RAW OUTPUT`` is one whole conversion, whose memory is measured.
"""

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from frames import NEEDED, raw_frames, size_of
from pipeline import workers
from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import on_disk, small_files
from pipeline.params import Profile, load_profile
from pipeline.stages import convert, index
from turns import PARAMS, ratio, take_turns

CONVERTED = 7_500
SCALE = (4_000, 10_000, 20_000)
EXTRAPOLATED = (512_000, 2_400_000)


def speed(profile: Profile, layout: Layout, work: Path, rounds: int) -> dict[str, Any]:
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
        command = [sys.executable, __file__, str(source), str(target)]
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
                "megabytes": round(size_of(target / "store") / 1e6, 1),
                "peak_megabytes": round(peak / 1e6),
            }
        )
        shutil.rmtree(source)
        shutil.rmtree(target)
    frames_, seconds_, megabytes_ = (
        np.array([row[key] for row in rows], float) for key in ("frames", "seconds", "megabytes")
    )
    time_line, size_line = (np.polyfit(frames_, values, 1) for values in (seconds_, megabytes_))
    raw_bytes = size_of(layout.raw / "training") / len(raw_frames(layout))
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


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    convert_all(*map(Path, sys.argv[1:]))
