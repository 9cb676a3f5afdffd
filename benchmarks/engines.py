"""Engines that others train from, each reading windows of frames as its documentation shows.

An engine is a small value: it is sent to worker processes, and opens its files there. All are
written from the same decoded frames of a store.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from formats import library_arrays
from pipeline.calvin import on_disk
from pipeline.calvin.fields import CAMERAS, VECTORS
from wam.config import FPS

# Read when the libraries are imported: all data are here, and only results are to be printed.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SVT_LOG", "1")

FIELDS = (*CAMERAS, "proprio", "rel_actions")
"""What is read of every frame."""
Windows = dict[str, Any]
"""Arrays or tensors [B, T, ...] by name: windows side by side."""


@dataclass(frozen=True)
class Frames:
    """What an engine's files are written from."""

    arrays: Mapping[str, np.ndarray]
    """[N, ...] by name, as in the store: images uint8 [N, 64, 64, 3]."""
    episodes: np.ndarray
    """int64 [E, 2], rows [start, stop)."""


class Engine(Protocol):
    def read(self, starts: np.ndarray, length: int) -> Windows:
        """The windows of ``length`` frames from rows ``starts`` int64 [B] on."""


Write = Callable[[Frames, Path], None]
"""Writes the frames below a directory that is empty."""


@dataclass(frozen=True)
class Npz:
    """A compressed ``.npz`` per frame, read one after the other as CALVIN's loaders do."""

    directory: Path

    @staticmethod
    def write(frames: Frames, directory: Path) -> None:
        for row in range(len(frames.arrays["frame_id"])):
            vectors = {name: frames.arrays[name][row].astype(np.float64) for name in VECTORS}
            images = {camera: frames.arrays[camera][row] for camera in CAMERAS}
            np.savez_compressed(
                on_disk.frame_path(directory, row), allow_pickle=False, **images, **vectors
            )

    def read(self, starts: np.ndarray, length: int) -> Windows:
        names = (*CAMERAS, "robot_obs", "rel_actions")
        windows = []
        for start in starts.tolist():
            frames: dict[str, list[np.ndarray]] = {name: [] for name in names}
            for row in range(start, start + length):
                with np.load(on_disk.frame_path(self.directory, row)) as file:
                    for name in names:
                        frames[name].append(file[name])
            windows.append({name: np.stack(values) for name, values in frames.items()})
        return {name: np.stack([window[name] for window in windows]) for name in names}


@dataclass(frozen=True)
class Zarr:
    """The store itself, read by zarr-python with one of ``formats.LIBRARIES``."""

    store: Path | str
    """A directory or a URL."""
    pipeline: str
    threads: int

    def read(self, starts: np.ndarray, length: int) -> Windows:
        return {
            name: np.stack([array[start : start + length] for start in starts.tolist()])
            for name, array in self._arrays.items()
        }

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        arrays = library_arrays(self.store, "r", self.pipeline, self.threads)
        return {name: arrays[name] for name in FIELDS}


@dataclass(frozen=True)
class Lance:
    """A Lance data set with a row per frame, of which any rows are taken at once.

    Images are PNG files, or plain bytes (``png`` false).
    """

    directory: Path
    png: bool

    @staticmethod
    def writer(*, png: bool) -> Write:
        def write(frames: Frames, directory: Path) -> None:
            import lance
            import pyarrow

            columns = {}
            for name, values in frames.arrays.items():
                if png and name in CAMERAS:
                    columns[name] = pyarrow.array([_png(image) for image in values])
                elif values.ndim == 1:
                    columns[name] = pyarrow.array(values)
                else:
                    flat = pyarrow.array(values.reshape(-1))
                    size = values[0].size
                    columns[name] = pyarrow.FixedSizeListArray.from_arrays(flat, size)
            lance.write_dataset(pyarrow.table(columns), str(directory / "frames.lance"))

        return write

    def read(self, starts: np.ndarray, length: int) -> Windows:
        rows = (starts[:, None] + np.arange(length)).ravel()
        table = self._data.take(rows, columns=list(FIELDS))
        shape = (len(starts), length)
        windows: Windows = {}
        for name in FIELDS:
            column = table.column(name).combine_chunks()
            if name not in CAMERAS:
                windows[name] = column.flatten().to_numpy().reshape(*shape, -1)
            elif self.png:
                images = [_image(file.as_buffer()) for file in column]
                windows[name] = np.stack(images).reshape(*shape, *images[0].shape)
            else:
                windows[name] = column.flatten().to_numpy().reshape(*shape, 64, 64, 3)
        return windows

    @cached_property
    def _data(self) -> Any:
        import lance

        return lance.dataset(str(self.directory / "frames.lance"))


@dataclass(frozen=True)
class LeRobot:
    """A LeRobotDataset v3.0, written and read by LeRobot with its own defaults."""

    directory: Path

    @staticmethod
    def writer(*, videos: bool) -> Write:
        def write(frames: Frames, directory: Path) -> None:
            from lerobot.datasets.lerobot_dataset import LeRobotDataset

            data = LeRobotDataset.create(
                _REPOSITORY,
                FPS,
                {
                    _lerobot_name(name): _feature(name, values[0], videos)
                    for name, values in frames.arrays.items()
                },
                root=directory / "data",
                use_videos=videos,
            )
            for start, stop in frames.episodes.tolist():
                for row in range(start, stop):
                    frame = {
                        _lerobot_name(name): np.atleast_1d(values[row])
                        for name, values in frames.arrays.items()
                    }
                    data.add_frame(frame | {"task": "play"})
                data.save_episode()
            data.finalize()

        return write

    def read(self, starts: np.ndarray, length: int) -> Windows:
        if length not in self._data:
            self._data[length] = self._open(length)
        data = self._data[length]
        items = [data[start] for start in starts.tolist()]
        keys = {name: _lerobot_name(name) for name in FIELDS}
        return {name: torch.stack([item[key] for item in items]) for name, key in keys.items()}

    @cached_property
    def _data(self) -> dict[int, Any]:
        return {}

    def _open(self, length: int) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        times_s = [step / FPS for step in range(length)]
        return LeRobotDataset(
            _REPOSITORY,
            root=self.directory / "data",
            delta_timestamps={_lerobot_name(name): times_s for name in FIELDS},
            return_uint8=True,
        )


_REPOSITORY = "wam/benchmark"


def _lerobot_name(name: str) -> str:
    return f"observation.images.{name}" if name in CAMERAS else name


def _feature(name: str, value: np.ndarray, videos: bool) -> dict[str, Any]:
    if name in CAMERAS:
        axes = ["height", "width", "channels"]
        return {"dtype": "video" if videos else "image", "shape": value.shape, "names": axes}
    return {"dtype": str(value.dtype), "shape": np.atleast_1d(value).shape, "names": None}


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def _image(file: Any) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
