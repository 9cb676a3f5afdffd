"""The store as WebDataset tars, for streaming and remote training.

A sample is a stretch of play inside one episode; every array is one Zstandard-compressed ``.npy``.
The tars are deterministic, written in parallel as ``convert.workers`` and ``convert.dask_address``
say, and each under a temporary name first.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numcodecs import Zstd

from pipeline import console, workers
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import SPLITS, store_path
from pipeline.params import Convert, Export, Profile
from pipeline.store.open import Store, open_store
from pipeline.webdataset.read import SUFFIX, Stretch
from wam.reliability.atomic import replacing

STAGE = "export"
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class TarJob:
    """One tar to write: ``stretches`` of the store of one split."""

    store: Path
    stretches: tuple[Stretch, ...]
    path: Path

    @property
    def num_frames(self) -> int:
        return sum(stretch.stop - stretch.start for stretch in self.stretches)


def export_webdataset(profile: Profile, store: Path, output: Path) -> None:
    """Write one directory of tars per split of ``store``.

    An interrupted export goes on with the first tar that is missing. Raises WamError if the store
    is incomplete, or ``output`` holds anything but an earlier export.
    """
    settings = profile.export
    stores = {split: open_store(store_path(store, split)) for split in SPLITS}
    manifests.check_replaceable(output, STAGE)

    def make(target: Build) -> None:
        jobs = {
            split: plan(store, target.directory / split, settings)
            for split, store in stores.items()
        }
        _write_all([job for split in jobs.values() for job in split], profile.convert)
        target.manifest["splits"] = {
            split: _summary(stores[split], jobs[split]) for split in SPLITS
        }

    build(
        output,
        make,
        stage=STAGE,
        params=settings,
        inputs={"store": manifests.fingerprint(store, "convert", deep=False)},
    )
    splits = manifests.read_manifest(output, STAGE)["splits"].values()
    num_tars = sum(len(split["tars"]) for split in splits)
    num_samples = sum(split["num_sequences"] for split in splits)
    console.done("export", f"{num_samples:,} sequences in {num_tars} tars at {output}")


def plan(store: Store, directory: Path, settings: Export) -> list[TarJob]:
    """One job per tar of ``store``; the last stretch of an episode may be shorter."""
    stretches = [
        Stretch(number, row, min(row + settings.sequence_frames, stop), row == start)
        for number, (start, stop) in enumerate(store.episodes.tolist())
        for row in range(start, stop, settings.sequence_frames)
    ]
    size = settings.sequences_per_shard
    return [
        TarJob(
            store.path,
            tuple(stretches[first : first + size]),
            directory / f"{store.split}-{first // size:06d}.tar",
        )
        for first in range(0, len(stretches), size)
    ]


def _write_all(jobs: list[TarJob], settings: Convert) -> None:
    """Write the tars that are not there: an unfinished export holds only whole ones."""
    for directory in {job.path.parent for job in jobs}:
        directory.mkdir(exist_ok=True)
    waiting = [job for job in jobs if not job.path.exists()]
    num_frames = sum(job.num_frames for job in jobs)
    done = num_frames - sum(job.num_frames for job in waiting)
    with (
        console.progress("export", num_frames, "frames", done=done) as advance,
        workers.job_runner(settings) as run_jobs,
    ):
        for written in run_jobs(write_tar, waiting):
            advance(written)


def _summary(store: Store, jobs: list[TarJob]) -> dict[str, object]:
    return {
        "num_frames": store.num_frames,
        "num_sequences": sum(len(job.stretches) for job in jobs),
        "attributes": store.attrs,
        "tars": [
            {
                "name": job.path.name,
                "num_sequences": len(job.stretches),
                "sequences": [[one.episode, one.start, one.stop] for one in job.stretches],
                "num_frames": job.num_frames,
            }
            for job in jobs
        ],
    }


def write_tar(job: TarJob) -> int:
    """Write one tar; the number of its frames. Raises WamError naming a damaged shard."""
    from webdataset import TarWriter  # not installed everywhere

    codec = Zstd(level=ZSTD_LEVEL, checksum=True)
    store = open_store(job.store)
    start, stop = job.stretches[0].start, job.stretches[-1].stop
    rows = {name: store.read(name, start, stop) for name in store.arrays}
    with (
        replacing(job.path) as temporary,
        TarWriter(str(temporary), mtime=0, encoder=False) as tar,
    ):
        for stretch in job.stretches:
            # Fixed width and without dots, as WebDataset wants it.
            key = f"episode{stretch.episode:06d}-row{stretch.start:09d}"
            sample: dict[str, object] = {"__key__": key}
            for name, values in rows.items():
                buffer = io.BytesIO()
                part = values[stretch.start - start : stretch.stop - start]
                np.save(buffer, part, allow_pickle=False)
                sample[name + SUFFIX] = codec.encode(buffer.getvalue())
            sample["json"] = json.dumps(asdict(stretch), sort_keys=True).encode()
            tar.write(sample)
    return job.num_frames
