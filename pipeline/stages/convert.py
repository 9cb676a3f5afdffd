"""Stage ``convert``: raw frames to one sharded Zarr v3 group per split.

The job list is a pure function of the index, each job writes whole shards (:mod:`shard_job`), and
what readers rely on, the group's attributes, is written last. A killed conversion therefore goes on
where it stopped, and equal input and parameters give equal bytes with any number of workers.
"""

import contextlib
import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console, workers
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import SPLITS, Layout, store_path
from pipeline.calvin.frame_checks import InvalidFrame
from pipeline.calvin.listing import RawIndex, load_index
from pipeline.calvin.moments import Moments
from pipeline.calvin.stretches import DamagedEpisode, long_enough, stretches
from pipeline.params import Convert, Profile
from pipeline.store.arrays import SCHEMA_VERSION, STATISTICS_OF, StoreArray
from pipeline.store.group import create_arrays, finish_group, parameters, store_arrays
from pipeline.store.shard_job import Piece, ShardJob, read_record, write_shard
from wam.errors import WamError

FINDINGS = "findings.json"
"""Episodes that were cut or dropped, and what the index found wrong with the data set."""
_RECORDS = "records"


def run(profile: Profile, layout: Layout, run_jobs: workers.JobRunner | None = None) -> None:
    """Convert the indexed frames into ``layout.store``.

    ``run_jobs`` runs the shard jobs; by default ``convert.workers`` and ``convert.dask_address``
    decide. Raises WamError naming the first invalid frame; under ``on_error: skip-episode`` what is
    whole of its episode is kept, if it is long enough, and ``findings.json`` tells what is not.
    """
    index = load_index(layout.index)
    for split in index.splits.values():
        if not Path(split.directory).is_dir():
            raise WamError(
                f"{split.directory}: the raw frames are not here, and the store has to be made of "
                "them; get a finished one with 'dvc pull', or restore the frames (raw.path, or "
                "'wam collect') and run 'wam index'; in an experiment's copy of the repository "
                "only an absolute raw.path leads to them"
            )
    settings = profile.convert
    arrays = _arrays(index, settings)

    def make(target: Build) -> None:
        runner = contextlib.nullcontext(run_jobs) if run_jobs else workers.job_runner(settings)
        with runner as run_all:
            written, jobs = _write_all(index, arrays, target, settings, run_all)
        finalize(written, arrays, target, settings, jobs)

    build(
        layout.store,
        make,
        stage="convert",
        params=parameters(settings),
        inputs={"index": manifests.fingerprint(layout.index, "index")},
    )
    splits = manifests.read_manifest(layout.store, "convert")["splits"].values()
    num_frames = sum(split["num_frames"] for split in splits)
    damaged = len(manifests.read_json(layout.store / FINDINGS)["damaged_episodes"])
    num_shards = sum(split["num_shards"] for split in splits)
    console.done(
        "convert",
        f"{num_frames:,} frames in {num_shards} shards at {layout.store}"
        + (f"; {damaged} damaged episodes cut or dropped, see {FINDINGS}" if damaged else ""),
    )


def plan(
    index: RawIndex, arrays: dict[str, StoreArray], target: Build, settings: Convert
) -> list[ShardJob]:
    """One job per shard of every split, in order; a pure function of its arguments."""
    return [
        ShardJob(
            split=name,
            index=start // settings.shard_frames,
            pieces=_pieces(split.episodes, start, start + settings.shard_frames),
            raw_directory=Path(split.directory),
            digits=split.digits,
            kinds=split.arrays,
            arrays=arrays,
            shard_frames=settings.shard_frames,
            chunk_frames=settings.chunk_frames,
            zstd_level=settings.zstd_level,
            store=store_path(target.directory, name),
            records=target.work / _RECORDS,
            skip_episodes=settings.on_error == "skip-episode",
        )
        for name, split in index.splits.items()
        for start in range(0, split.num_frames, settings.shard_frames)
    ]


def finalize(
    index: RawIndex,
    arrays: dict[str, StoreArray],
    target: Build,
    settings: Convert,
    jobs: list[ShardJob],
) -> None:
    """Write what needs all shards, the attributes last; tell the store's manifest of all."""
    output = target.directory
    statistics = _gather(jobs, target)
    damaged = [episode for split in index.splits.values() for episode in split.damaged]
    manifests.write_json(
        output / FINDINGS,
        {
            "damaged_episodes": [dataclasses.asdict(episode) for episode in damaged],
            "warnings": [dataclasses.asdict(warning) for warning in index.warnings],
        },
    )
    for name, split in index.splits.items():
        finish_group(store_path(output, name), name, split, arrays, settings, statistics)
    target.manifest.update(
        {
            "schema_version": SCHEMA_VERSION,
            "source": index.raw,
            "source_digest": index.digest,
            "splits": {
                name: {
                    "num_frames": split.num_frames,
                    "num_episodes": len(split.episodes),
                    "num_shards": sum(job.split == name for job in jobs),
                }
                for name, split in index.splits.items()
            },
            "arrays": {name: dataclasses.asdict(array) for name, array in arrays.items()},
            "statistics": statistics,
        }
    )


def _arrays(index: RawIndex, settings: Convert) -> dict[str, StoreArray]:
    """What is stored of every frame of both splits."""
    arrays, others = (store_arrays(index.splits[split], settings) for split in SPLITS)
    for key, array in arrays.items():
        other = others[key]
        if array != other:
            raise WamError(
                f"{key}: {array.dtype} {array.shape} in training, {other.dtype} {other.shape} in "
                "validation; set convert.image_size to make images alike, or leave the array out"
            )
    return arrays


def _write_all(
    index: RawIndex,
    arrays: dict[str, StoreArray],
    target: Build,
    settings: Convert,
    run_jobs: workers.JobRunner,
) -> tuple[RawIndex, list[ShardJob]]:
    """Write all shards; the index without the frames that are invalid, and its jobs.

    Leaving some out moves the rows behind them, so the list of jobs is made anew; shards before
    them match their records and are not written again.
    """
    while True:
        jobs = plan(index, arrays, target, settings)
        _remove_stale(target, jobs)
        for name, split in index.splits.items():
            create_arrays(store_path(target.directory, name), arrays, split.num_frames, settings)
        waiting = [job for job in jobs if read_record(job) is None]
        num_frames = sum(job.num_frames for job in jobs)
        done = num_frames - sum(job.num_frames for job in waiting)
        invalid: list[InvalidFrame] = []
        with console.progress("convert", num_frames, "frames", done=done) as advance:
            for record in run_jobs(write_shard, waiting):
                invalid += record.findings
                advance(record.num_frames)
        if not invalid:
            return index, jobs
        index = _without(index, invalid)


def _gather(jobs: list[ShardJob], target: Build) -> dict[str, Any]:
    """Note all files of finished jobs; the statistics of every vector of the training frames.

    Records are read one at a time and merged in the shards' order.
    """
    merged: dict[str, Moments] = {}
    for job in jobs:
        record = read_record(job)
        assert record is not None
        for name, entry in record.files.items():
            target.known[str(job.file(name).relative_to(target.directory))] = entry
        for name in STATISTICS_OF if job.split == "training" else ():
            part = Moments.from_dict(record.moments[name])
            merged[name] = merged[name].merged(part) if name in merged else part
    return {
        name: {
            "count": moments.count,
            "min": moments.minimum.tolist(),
            "max": moments.maximum.tolist(),
            "mean": moments.mean.tolist(),
            "std": moments.std.tolist(),
        }
        for name, moments in merged.items()
    }


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


def _without(index: RawIndex, invalid: list[InvalidFrame]) -> RawIndex:
    """``index`` without these frames: their episodes are cut, which is noted in it, and said."""
    splits = {}
    for name, split in index.splits.items():
        lost: dict[tuple[int, int], list[InvalidFrame]] = defaultdict(list)
        for frame in sorted(invalid, key=lambda frame: frame.frame_id):
            if frame.split == name:
                lost[frame.episode].append(frame)
        kept, damaged = [], []
        for episode, scene in zip(split.episodes, split.scenes, strict=True):
            if episode not in lost:
                kept.append((episode, scene))
                continue
            frames = lost[episode]
            sound = np.setdiff1d(np.arange(*episode), [frame.frame_id for frame in frames])
            parts = long_enough(stretches(sound))
            kept += [(part, scene) for part in parts]
            first = frames[0]
            damaged.append(
                DamagedEpisode(name, episode, len(frames), first.file, first.problem, parts)
            )
            console.warn(str(damaged[-1]))
        if not kept:
            raise WamError(
                f"{split.directory}: nothing is left of any episode; the first problem is "
                f"{damaged[0].file}: {damaged[0].problem}"
            )
        splits[name] = dataclasses.replace(
            split,
            episodes=[episode for episode, _ in kept],
            scenes=[scene for _, scene in kept],
            num_frames=sum(stop - start for (start, stop), _ in kept),
            damaged=[*split.damaged, *damaged],
        )
    return dataclasses.replace(index, splits=splits)


def _remove_stale(target: Build, jobs: list[ShardJob]) -> None:
    """Remove records and files of shards that no job would write, and half-written files."""
    expected = {job.record_path for job in jobs}
    expected.update(job.file(name) for job in jobs for name in job.arrays)
    directories = {job.store / name for job in jobs for name in job.arrays}
    for directory in [target.work / _RECORDS, *directories]:
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if path not in expected:
                path.unlink()
