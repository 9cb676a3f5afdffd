"""Stage ``export``: the store as WebDataset shards, for streaming and remote training.

A sample is a stretch of play inside one episode; every array is one Zstandard-compressed ``.npy``.
The tars are deterministic, and each is written under a temporary name and renamed. The other
format, LeRobot's, is in :mod:`pipeline.lerobot`.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numcodecs import Zstd

from pipeline import artifacts, console, lerobot
from pipeline.layout import SPLITS, Layout
from pipeline.params import Export, Profile
from pipeline.store import Store, open_store
from pipeline.store_group import store_path
from wam.atomic import replacing

STAGE = "export"
ZSTD_LEVEL = 3

Format = Literal["webdataset", "lerobot"]


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop) of one episode that make one sample."""

    episode: int
    start: int
    stop: int
    is_first: bool
    """The stretch begins where the episode begins."""

    @property
    def key(self) -> str:
        """Fixed width and without dots, as WebDataset wants it."""
        return f"episode{self.episode:06d}-row{self.start:09d}"


def run(
    profile: Profile, layout: Layout, format: Format = "webdataset", output: Path | None = None
) -> None:
    """Export ``layout.store`` to ``output``, by default ``layout.shards`` or ``layout.lerobot``.

    Raises WamError if the store is incomplete, or ``output`` holds anything but an earlier export.
    """
    if format == "lerobot":
        lerobot.run(layout, output or layout.lerobot)
    else:
        _export_webdataset(profile.export, layout.store, output or layout.shards)


def _export_webdataset(settings: Export, store: Path, output: Path) -> None:
    stores = {split: open_store(store_path(store, split)) for split in SPLITS}
    artifacts.check_replaceable(output, STAGE)
    with artifacts.building(
        output,
        stage=STAGE,
        params=settings,
        inputs={"store": artifacts.fingerprint(store, "convert")},
    ) as (partial, manifest):
        manifest["splits"] = {
            split: _export_split(store, partial / split, settings)
            for split, store in stores.items()
        }
    num_tars = sum(len(split["tars"]) for split in manifest["splits"].values())
    num_samples = sum(split["num_sequences"] for split in manifest["splits"].values())
    console.done("export", f"{num_samples:,} sequences in {num_tars} tars at {output}")


def plan(episodes: np.ndarray, sequence_frames: int) -> list[Stretch]:
    """All stretches of a split in order; the last one of an episode may be shorter."""
    return [
        Stretch(number, row, min(row + sequence_frames, stop), row == start)
        for number, (start, stop) in enumerate(episodes.tolist())
        for row in range(start, stop, sequence_frames)
    ]


def _export_split(store: Store, directory: Path, settings: Export) -> dict[str, object]:
    directory.mkdir(exist_ok=True)
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()
    stretches = plan(store.episodes, settings.sequence_frames)
    tars = []
    with console.progress(f"export {store.split}", store.num_frames, "frames") as advance:
        for first in range(0, len(stretches), settings.sequences_per_shard):
            part = stretches[first : first + settings.sequences_per_shard]
            number = first // settings.sequences_per_shard
            path = directory / f"{store.split}-{number:06d}.tar"
            if not path.exists():  # a partial directory holds only whole tars of equal settings
                _write_tar(store, part, path)
            num_frames = sum(stretch.stop - stretch.start for stretch in part)
            tars.append(
                {
                    "name": path.name,
                    "num_sequences": len(part),
                    "sequences": [[one.episode, one.start, one.stop] for one in part],
                    "num_frames": num_frames,
                }
            )
            advance(num_frames)
    return {
        "num_frames": store.num_frames,
        "num_sequences": len(stretches),
        "attributes": store.attrs,
        "tars": tars,
    }


def _write_tar(store: Store, stretches: list[Stretch], path: Path) -> None:
    from webdataset import TarWriter  # not installed everywhere

    codec = Zstd(level=ZSTD_LEVEL, checksum=True)
    start, stop = stretches[0].start, stretches[-1].stop
    rows = {name: store.read(name, start, stop) for name in store.arrays}
    with (
        replacing(path) as temporary,
        TarWriter(str(temporary), mtime=0, encoder=False) as tar,
    ):
        for stretch in stretches:
            sample: dict[str, object] = {"__key__": stretch.key}
            for name, values in rows.items():
                buffer = io.BytesIO()
                part = values[stretch.start - start : stretch.stop - start]
                np.save(buffer, part, allow_pickle=False)
                sample[f"{name}.npy.zst"] = codec.encode(buffer.getvalue())
            sample["json"] = _json_bytes(
                {
                    "episode": stretch.episode,
                    "start": stretch.start,
                    "stop": stretch.stop,
                    "is_first": stretch.is_first,
                }
            )
            tar.write(sample)


def _json_bytes(value: dict[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
