"""The unit of conversion: one job writes exactly one shard of every array of a split.

Two writers in one shard would lose data silently, so nothing smaller is ever written. A job is a
small value that can be sent to any process; writing it again gives the same bytes. Images pass
through it chunk by chunk, so that its memory does not depend on the size of a shard.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pipeline.artifacts import manifests
from pipeline.calvin import on_disk
from pipeline.calvin.fields import VECTORS
from pipeline.calvin.frame_checks import (
    InvalidFrame,
    check_frame,
    check_values,
    read_checked_frame,
)
from pipeline.calvin.moments import Moments
from pipeline.calvin.npz import Kind
from pipeline.pictures.images import resized
from pipeline.store.arrays import STATISTICS_OF, StoreArray
from pipeline.store.shard_file import ShardFile, write_chunk_file
from wam import proprio
from wam.errors import WamError


class Piece(NamedTuple):
    """Consecutive frames of one episode."""

    start: int
    stop: int
    """Frame ids [start, stop)."""
    episode: tuple[int, int]
    """Frame ids [start, stop) of the whole episode."""


@dataclass(frozen=True)
class ShardJob:
    """Everything that one shard depends on."""

    split: str
    index: int
    """Place of the shard in the arrays."""
    pieces: tuple[Piece, ...]
    """Where its frames come from, in order."""
    raw_directory: Path
    digits: int
    kinds: dict[str, Kind]
    """Dtype and shape of the first raw frame's arrays, which all frames have to have."""
    arrays: dict[str, StoreArray]
    """What is stored, of kinds that can be made of the raw arrays."""
    shard_frames: int
    chunk_frames: int
    zstd_level: int
    store: Path
    """The split's Zarr group, whose arrays exist already."""
    records: Path
    """Directory for the records of finished shards."""
    skip_episodes: bool
    """Report invalid frames in the record instead of raising."""

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index}"

    @property
    def num_frames(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def digest(self) -> str:
        """Changes with the rows of the shard, not with their number in the whole store."""
        return manifests.digest([self.split, self.index, self.pieces])

    @property
    def raw_keys(self) -> list[str]:
        """The arrays that are read of every frame."""
        return list(dict.fromkeys([*(key for key in self.arrays if key in self.kinds), *VECTORS]))

    @property
    def record_path(self) -> Path:
        return self.records / f"{self.split}-{self.index:06d}.json"

    def file(self, name: str) -> Path:
        """The file of array ``name`` that this job writes."""
        places = [str(self.index), *("0" for _ in self.arrays[name].shape)]
        return self.store / name / ".".join(["c", *places])


@dataclass(frozen=True)
class ShardRecord:
    """What is left of a job that has been done."""

    split: str
    index: int
    job: str
    """Digest of the job."""
    num_frames: int
    moments: dict[str, dict[str, Any]]
    """:class:`Moments` of the vectors."""
    files: dict[str, dict[str, Any]]
    """``bytes`` and ``digest`` of the shard's file in each array."""
    findings: list[InvalidFrame]
    """All invalid frames; if there are any, nothing was written."""


def write_shard(job: ShardJob) -> ShardRecord:
    """Read, check, resize and store the frames of ``job``; nothing to do if its record matches.

    Raises WamError naming the file and field of the first invalid frame, unless episodes may be
    skipped.
    """
    done = read_record(job)
    if done is not None:
        return done
    cv2.setNumThreads(1)  # the jobs are the parallelism
    try:
        record = _write(job)
    except WamError:
        if not job.skip_episodes:
            raise
        return ShardRecord(job.split, job.index, job.digest, 0, {}, {}, list(_invalid(job)))
    manifests.write_json(job.record_path, asdict(record))
    return record


def read_record(job: ShardJob) -> ShardRecord | None:
    """The record of ``job`` if it was done before and its files are still there, and whole."""
    if not job.record_path.is_file():
        return None
    try:
        record = ShardRecord(**manifests.read_json(job.record_path))
    except (WamError, TypeError):
        return None  # a damaged record: the shard is written again
    complete = not any(
        manifests.size_problem(job.file(name), entry) for name, entry in record.files.items()
    )
    return record if record.job == job.digest and complete else None


def _write(job: ShardJob) -> ShardRecord:
    frame_ids = np.concatenate([np.arange(piece.start, piece.stop) for piece in job.pieces])
    paths = [on_disk.frame_path(job.raw_directory, at, job.digits) for at in frame_ids.tolist()]
    shards = {
        name: ShardFile(
            (job.chunk_frames, *array.shape),
            array.dtype,
            job.shard_frames // job.chunk_frames,
            job.zstd_level,
        )
        for name, array in job.arrays.items()
        if array.is_image
    }
    rows = {
        key: np.empty((len(paths), *shape), np.float64 if key in VECTORS else dtype)
        for key, (dtype, shape) in job.kinds.items()
        if key in job.raw_keys and key not in shards
    }
    for start in range(0, len(paths), job.chunk_frames):
        block = slice(start, start + job.chunk_frames)
        part = {key: values[block] for key, values in rows.items()}
        _read_block(job, paths[block], shards, part)
        for shard in shards.values():
            shard.write_chunk(len(paths[block]))
    files = {name: shard.save(job.file(name)) for name, shard in shards.items()}
    rows["proprio"] = proprio.from_robot_obs(rows["robot_obs"])
    rows["frame_id"] = frame_ids
    stored = {name: rows[name].astype(job.arrays[name].dtype) for name in rows}
    files |= {
        name: write_chunk_file(job.file(name), values, job.shard_frames, job.zstd_level)
        for name, values in stored.items()
    }
    return ShardRecord(
        split=job.split,
        index=job.index,
        job=job.digest,
        num_frames=len(paths),
        moments={name: Moments.of(stored[name]).to_dict() for name in STATISTICS_OF},
        files=files,
        findings=[],
    )


def _read_block(
    job: ShardJob,
    paths: Sequence[Path],
    shards: dict[str, ShardFile],
    rows: dict[str, np.ndarray],
) -> None:
    """Read the frames of one chunk: images into ``shards``, all else into ``rows``."""
    keys = job.raw_keys
    num_read = 0
    try:
        for path in paths:
            frame = read_checked_frame(path, job.kinds, keys)
            for name, shard in shards.items():
                shard.chunk[num_read] = resized(frame[name], shard.chunk.shape[1:3])
            for key, values in rows.items():
                values[num_read] = frame[key]
            num_read += 1
    finally:
        # Also after an error: a frame before that one may be the first that is invalid.
        vectors = {name: rows[name][:num_read] for name in VECTORS}
        check_values(paths[:num_read], vectors)


def _invalid(job: ShardJob) -> Iterator[InvalidFrame]:
    """All invalid frames."""
    for piece in job.pieces:
        for frame_id in range(piece.start, piece.stop):
            path = on_disk.frame_path(job.raw_directory, frame_id, job.digits)
            try:
                check_frame(path, job.kinds, job.raw_keys)
            except WamError as error:
                file, _, problem = str(error).partition(": ")
                yield InvalidFrame(job.split, piece.episode, frame_id, file, problem)
