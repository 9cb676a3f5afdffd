"""Stage ``convert``: raw frames to one sharded Zarr v3 group per split.

The job list is a pure function of the index, each job writes whole shards (:mod:`shard_job`), and
what readers rely on, the group's attributes, is written last. A killed conversion therefore goes on
where it stopped, and equal input and parameters give equal bytes with any number of workers.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from pipeline import artifacts, console, workers
from pipeline.index import Finding, RawIndex, SplitIndex, load_index
from pipeline.layout import Layout
from pipeline.origin import ORIGIN
from pipeline.params import Convert, Profile
from pipeline.schema import EPISODES, SCHEMA_VERSION, STORE_ARRAYS
from pipeline.shard_job import WRITING, Piece, ShardJob, ShardRecord, read_record, shard_file
from wam.config import FPS
from wam.errors import WamError

FINDINGS = "findings.json"
_RECORDS = ".records"


def run(profile: Profile, layout: Layout, map_jobs: workers.MapJobs | None = None) -> None:
    """Convert the indexed frames into ``layout.store``.

    ``map_jobs`` runs the shard jobs; by default ``convert.workers`` and ``convert.dask_address``
    decide. Raises WamError naming the first invalid frame; under ``on_error: skip-episode`` the
    episode is dropped instead and ``findings.json`` tells why.
    """
    index = load_index(layout.index)
    for split in index.splits.values():
        if not Path(split.directory).is_dir():
            raise WamError(f"{split.directory}: directory not found, but indexed; run 'wam index'")
    settings = profile.convert
    params = {
        "shard_frames": settings.shard_frames,
        "chunk_frames": settings.chunk_frames,
        "zstd_level": settings.zstd_level,
        "on_error": settings.on_error,
    }
    with (
        artifacts.building(
            layout.store,
            stage="convert",
            params=params,
            inputs={"index": artifacts.fingerprint(layout.index, "index")},
        ) as (partial, manifest),
        contextlib.nullcontext(map_jobs) if map_jobs else workers.job_runner(settings) as run_jobs,
    ):
        index, records = _write_all(index, partial, settings, run_jobs)
        manifest.update(finalize(index, partial, settings, records))
    num_frames = sum(split.num_frames for split in index.splits.values())
    dropped = sum(len(split.findings) for split in index.splits.values())
    console.done(
        "convert",
        f"{num_frames:,} frames in {len(records)} shards at {layout.store}"
        + (f"; {dropped} invalid episodes dropped, see {FINDINGS}" if dropped else ""),
    )


def plan(index: RawIndex, output: Path, settings: Convert) -> list[ShardJob]:
    """One job per shard of every split, in order; a pure function of its arguments."""
    return [
        ShardJob(
            split=name,
            index=start // settings.shard_frames,
            start=start,
            pieces=_pieces(split.episodes, start, start + settings.shard_frames),
            raw_directory=Path(split.directory),
            digits=split.digits,
            image_shapes=split.image_shapes,
            store=store_path(output, name),
            records=output / _RECORDS,
            skip_episodes=settings.on_error == "skip-episode",
        )
        for name, split in index.splits.items()
        for start in range(0, split.num_frames, settings.shard_frames)
    ]


def store_path(store: Path, split: str) -> Path:
    """The Zarr group of one split."""
    return store / f"{split}.zarr"


def prepare(index: RawIndex, output: Path, settings: Convert) -> None:
    """Create the arrays, keeping the shards that earlier runs have written."""
    for name, split in index.splits.items():
        group = zarr.open_group(store_path(output, name), mode="a")
        for array, field in STORE_ARRAYS.items():
            (store_path(output, name) / array / "zarr.json").unlink(missing_ok=True)
            chunk = (settings.chunk_frames, *field.shape)
            shard = (settings.shard_frames, *field.shape)
            group.create_array(
                array,
                shape=(split.num_frames, *field.shape),
                dtype=field.dtype,
                chunks=chunk if field.is_image else shard,
                shards=shard if field.is_image else None,
                attributes={"meaning": field.meaning},
                **_encoding(settings),
            )


def finalize(
    index: RawIndex, output: Path, settings: Convert, records: Iterable[ShardRecord]
) -> dict[str, Any]:
    """Write what needs all shards, the attributes last; the entries for the store's manifest."""
    ordered = sorted(records, key=lambda record: (record.split, record.index))
    training = [record for record in ordered if record.split == "training"]
    statistics = {
        "proprio_min": np.min([record.proprio_min for record in training], axis=0).tolist(),
        "proprio_max": np.max([record.proprio_max for record in training], axis=0).tolist(),
    }
    findings = [finding for split in index.splits.values() for finding in split.findings]
    artifacts.write_json(output / FINDINGS, [dataclasses.asdict(finding) for finding in findings])
    splits = {}
    for name, split in index.splits.items():
        shards = [record for record in ordered if record.split == name]
        assert sum(record.num_frames for record in shards) == split.num_frames
        _finish_group(store_path(output, name), name, split, settings, statistics, len(shards))
        splits[name] = {
            "num_frames": split.num_frames,
            "num_episodes": len(split.episodes),
            "shards": [record.files for record in shards],
        }
    for record in ordered:
        (output / _RECORDS / f"{record.split}-{record.index:06d}.json").unlink()
    (output / _RECORDS).rmdir()
    return {
        "schema_version": SCHEMA_VERSION,
        "source": index.raw,
        "source_digest": index.digest,
        "splits": splits,
        "arrays": {name: dataclasses.asdict(field) for name, field in STORE_ARRAYS.items()},
        "statistics": statistics,
    }


def _write_all(
    index: RawIndex, output: Path, settings: Convert, run_jobs: workers.MapJobs
) -> tuple[RawIndex, list[ShardRecord]]:
    """All shards, and the index without the episodes that had to be dropped.

    Dropping one moves the rows behind it, so the list of jobs is made anew; shards before it match
    their records and are not written again.
    """
    while True:
        jobs = plan(index, output, settings)
        _remove_stale(output, jobs)
        prepare(index, output, settings)
        records, waiting = _split_done(jobs)
        num_frames = sum(job.num_frames for job in jobs)
        done = sum(record.num_frames for record in records)
        with console.progress("convert", num_frames, "frames", done=done) as advance:
            for record in run_jobs(waiting):
                records.append(record)
                advance(record.num_frames)
        findings = [finding for record in records for finding in record.findings]
        if not findings:
            return index, records
        for finding in findings:
            console.warn(f"{finding.file}: {finding.problem}; the episode is dropped")
        index = _drop(index, findings)


def _split_done(jobs: list[ShardJob]) -> tuple[list[ShardRecord], list[ShardJob]]:
    """Records of the jobs done before, and the other jobs."""
    records, waiting = [], []
    for job in jobs:
        record = read_record(job)
        if record is None:
            waiting.append(job)
        else:
            records.append(record)
    return records, waiting


def _pieces(episodes: list[tuple[int, int]], start: int, stop: int) -> tuple[Piece, ...]:
    """Pieces of the episodes that fill rows [start, stop)."""
    pieces = []
    row = 0
    for episode in episodes:
        first = max(episode[0], episode[0] + start - row)
        last = min(episode[1], episode[0] + stop - row)
        if first < last:
            pieces.append(Piece(first, last, episode))
        row += episode[1] - episode[0]
    return tuple(pieces)


def _drop(index: RawIndex, findings: list[Finding]) -> RawIndex:
    """``index`` without the episodes of ``findings``, which are noted in it."""
    splits = {}
    for name, split in index.splits.items():
        first: dict[tuple[int, int], Finding] = {}
        for finding in sorted(findings, key=lambda finding: finding.file):
            if finding.split == name:
                first.setdefault(finding.episode, finding)
        kept = [episode for episode in split.episodes if episode not in first]
        if not kept:
            raise WamError(
                f"{split.directory}: every episode is invalid; the first problem is "
                f"{min(first.values(), key=lambda finding: finding.file).file}"
            )
        splits[name] = dataclasses.replace(
            split,
            episodes=kept,
            num_frames=sum(stop - start for start, stop in kept),
            findings=[*split.findings, *first.values()],
        )
    return dataclasses.replace(index, splits=splits)


def _remove_stale(output: Path, jobs: list[ShardJob]) -> None:
    """Remove records and files of shards that no job would write, and half-written files."""
    expected = {job.record_path for job in jobs}
    for job in jobs:
        expected.update(shard_file(job.store, name, job.index) for name in STORE_ARRAYS)
    for directory in [
        output / _RECORDS,
        *(store / name for store in {job.store for job in jobs} for name in STORE_ARRAYS),
    ]:
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path not in expected:
                path.unlink()


def _finish_group(
    path: Path,
    name: str,
    split: SplitIndex,
    settings: Convert,
    statistics: dict[str, list[float]],
    num_shards: int,
) -> None:
    lengths = [stop - start for start, stop in split.episodes]
    stops = np.cumsum(lengths)
    episodes = np.stack([stops - lengths, stops], axis=1).astype(np.int64)
    group = zarr.open_group(path, mode="r+")
    with zarr.config.set(WRITING):
        group.create_array(
            EPISODES,
            shape=episodes.shape,
            dtype=episodes.dtype,
            chunks=episodes.shape,
            overwrite=True,
            attributes={"meaning": "first row and one past the last row of every episode"},
            **_encoding(settings),
        )[:] = episodes
    group.update_attributes(
        {
            "schema_version": SCHEMA_VERSION,
            "split": name,
            "fps": FPS,
            "num_frames": split.num_frames,
            "num_shards": num_shards,
            "scene": split.scene,
            **{name: getattr(split, name) for name in ORIGIN},
            "source": split.directory,
            "source_digest": split.digest,
            "source_image_shapes": {key: list(v) for key, v in split.image_shapes.items()},
            **statistics,
        }
    )


def _encoding(settings: Convert) -> dict[str, Any]:
    """What all arrays share. Plain Zstd sees a whole chunk and so removes the still background."""
    return {
        "compressors": ZstdCodec(level=settings.zstd_level, checksum=True),
        "fill_value": 0,
        # One flat directory per array: c.<shard>.0.0.0
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }
