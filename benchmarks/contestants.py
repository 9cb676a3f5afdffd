"""Who takes part in the benchmark of the loaders: ours, and engines that others train from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import engines
from engines import Write
from formats import LIBRARIES
from pipeline.artifacts.layout import Layout, store_path
from pipeline.batches.decoded import Cache
from pipeline.store.open import Store, open_store
from pipeline.webdataset.read import open_split
from readers import OwnShards, OwnStore, Reader, WebDataset, WithTorch

SMALL_CHUNKS = {"chunk_frames": 25, "zstd_level": 12}
"""Settings of a conversion for short windows."""


@dataclass(frozen=True)
class Data:
    """The same frames in every format, below one directory."""

    root: Path

    @property
    def shards(self) -> Path:
        return Layout(self.root).shards

    @property
    def tars(self) -> list[Path]:
        return sorted((self.shards / "training").glob("*.tar"))

    @cached_property
    def store(self) -> Store:
        return open_store(store_path(Layout(self.root).store, "training"))

    @property
    def small_chunks(self) -> Layout:
        """Where the store with SMALL_CHUNKS is."""
        return Layout(self.root / "small_chunks")

    def engine(self, name: str) -> Path:
        """Directory of another engine's files."""
        return self.root / "engines" / name


@dataclass(frozen=True)
class Contestant:
    """One way of reading the frames."""

    reader: Callable[[Data, int], Reader]
    """Of the data, with so many workers; 0: none beside the thread that reads."""
    files: Callable[[Data], Path]
    """What it reads."""
    needs: str = "numpy.ndarray"
    """Dotted name of something in its package."""
    install: str = ""
    write: Write | None = None
    """Writes its files, where they are not ours."""
    lossless: bool = True
    streams: bool = False
    """It cannot jump: windows come in the order in which tars are streamed."""


def _own(cache: Cache) -> Contestant:
    return Contestant(
        lambda data, workers: OwnStore(data.store, cache, data.root / "cache", workers),
        lambda data: data.store.path if cache != "memmap" else data.root / "cache",
    )


def _small(data: Data) -> Store:
    return open_store(store_path(data.small_chunks.store, "training"))


def _zarr(name: str) -> Contestant:
    return Contestant(
        lambda data, workers: WithTorch(engines.Zarr(data.store.path, LIBRARIES[name], 1), workers),
        lambda data: data.store.path,
        LIBRARIES[name],
        name.split("_")[0],
    )


def _written(
    name: str, engine: Callable[[Path], engines.Engine], write: Write, **about: Any
) -> Contestant:
    return Contestant(
        lambda data, workers: WithTorch(engine(data.engine(name)), workers),
        lambda data: data.engine(name),
        write=write,
        **about,
    )


_LANCE = {"needs": "lance.dataset", "install": "pylance"}
_LEROBOT = {
    "needs": "lerobot.datasets.lerobot_dataset.LeRobotDataset",
    "install": "'lerobot[dataset]'",
}
OURS = ("store", "store_small_chunks", "store_ram", "store_memmap", "shards")
CONTESTANTS: dict[str, Contestant] = {
    "store": _own("none"),
    "store_small_chunks": Contestant(
        lambda data, workers: OwnStore(_small(data), "none", data.root, workers),
        lambda data: _small(data).path,
    ),
    "store_ram": _own("ram"),
    "store_memmap": _own("memmap"),
    "shards": Contestant(
        lambda data, workers: OwnShards(open_split(data.shards, "training"), workers),
        lambda data: data.shards / "training",
        streams=True,
    ),
    "npz": _written("npz", engines.Npz, engines.Npz.write),
    **{name: _zarr(name) for name in LIBRARIES},
    "webdataset": Contestant(
        lambda data, workers: WebDataset(data.tars, 100, workers),
        lambda data: data.shards / "training",
        "webdataset.WebDataset",
        "webdataset",
        streams=True,
    ),
    "lerobot_images": _written(
        "lerobot_images", engines.LeRobot, engines.LeRobot.writer(videos=False), **_LEROBOT
    ),
    "lerobot_video": _written(
        "lerobot_video",
        engines.LeRobot,
        engines.LeRobot.writer(videos=True),
        lossless=False,
        **_LEROBOT,
    ),
    "lance_png": _written(
        "lance_png",
        partial(engines.Lance, png=True),
        engines.Lance.writer(png=True),
        **_LANCE,
    ),
    "lance_bytes": _written(
        "lance_bytes",
        partial(engines.Lance, png=False),
        engines.Lance.writer(png=False),
        **_LANCE,
    ),
}
