"""The unit of conversion: one job writes exactly one shard of every array of a split.

Two writers in one shard would lose data silently, so nothing smaller is ever written. A job is a
small value that can be sent to any process; writing it again gives the same bytes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import zarr

from pipeline import artifacts, raw
from pipeline.frames import ImageShapes, read_valid_frame
from pipeline.images import to_model_size
from pipeline.index import Finding
from pipeline.schema import CAMERAS, STORE_ARRAYS, VECTORS
from wam import proprio
from wam.errors import WamError

WRITING = {
    # The Rust pipeline orders chunks inside a shard differently from run to run.
    "codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    # A chunk of zeros has to exist too: a missing file always means missing data.
    "array.write_empty_chunks": True,
    "threading.max_workers": 1,
    "async.concurrency": 1,
}
"""Zarr settings under which equal data gives equal bytes."""


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
    start: int
    """First row."""
    pieces: tuple[Piece, ...]
    """Where its frames come from, in order."""
    raw_directory: Path
    digits: int
    image_shapes: ImageShapes
    store: Path
    """The split's Zarr group, whose arrays exist already."""
    records: Path
    """Directory for the records of finished shards."""
    skip_episodes: bool
    """Report invalid frames in the record instead of raising."""

    @property
    def num_frames(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def digest(self) -> str:
        """Changes with the rows of the shard, not with their number in the whole store."""
        return artifacts.digest([self.split, self.index, self.start, self.pieces])

    @property
    def record_path(self) -> Path:
        return self.records / f"{self.split}-{self.index:06d}.json"


@dataclass(frozen=True)
class ShardRecord:
    """What is left of a job that has been done."""

    split: str
    index: int
    job: str
    """Digest of the job."""
    num_frames: int
    proprio_min: list[float]
    proprio_max: list[float]
    files: dict[str, str]
    """Digest of the shard's file in each array."""
    findings: list[Finding]
    """Episodes with an invalid frame; if there are any, nothing was written."""


def write_shard(job: ShardJob) -> ShardRecord:
    """Read, check, resize and store the frames of ``job``; nothing to do if its record matches.

    Raises WamError naming the file and field of the first invalid frame, unless episodes may be
    skipped.
    """
    done = read_record(job)
    if done is not None:
        return done
    cv2.setNumThreads(1)  # the jobs are the parallelism
    rows, findings = _read_rows(job)
    if findings:
        return ShardRecord(job.split, job.index, job.digest, 0, [], [], {}, findings)
    with zarr.config.set(WRITING):
        group = zarr.open_group(job.store, mode="r+")
        for name, values in rows.items():
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert job.start == job.index * shard_rows(array)
            array[job.start : job.start + job.num_frames] = values
    record = ShardRecord(
        split=job.split,
        index=job.index,
        job=job.digest,
        num_frames=job.num_frames,
        proprio_min=rows["proprio"].min(0).tolist(),
        proprio_max=rows["proprio"].max(0).tolist(),
        files={
            name: artifacts.file_digest(shard_file(job.store, name, job.index)) for name in rows
        },
        findings=[],
    )
    artifacts.write_json(job.record_path, asdict(record))
    return record


def read_record(job: ShardJob) -> ShardRecord | None:
    """The record of ``job`` if it was done before and its files are still there."""
    if not job.record_path.is_file():
        return None
    record = ShardRecord(**artifacts.read_json(job.record_path))
    files_exist = all(shard_file(job.store, name, job.index).is_file() for name in record.files)
    return record if record.job == job.digest and files_exist else None


def shard_rows(array: zarr.Array[Any]) -> int:
    """Rows in one file of ``array``."""
    return (array.shards or array.chunks)[0]


def shard_file(store: Path, name: str, index: int) -> Path:
    """The file that holds shard ``index`` of array ``name``."""
    return store / name / ".".join(["c", str(index), *("0" for _ in STORE_ARRAYS[name].shape)])


def _read_rows(job: ShardJob) -> tuple[dict[str, np.ndarray], list[Finding]]:
    rows = {
        name: np.empty((job.num_frames, *array.shape), array.dtype)
        for name, array in STORE_ARRAYS.items()
    }
    findings = []
    row = 0
    for piece in job.pieces:
        try:
            for frame_id in range(piece.start, piece.stop):
                path = raw.frame_path(job.raw_directory, frame_id, job.digits)
                frame = read_valid_frame(path, job.image_shapes)
                for camera in CAMERAS:
                    rows[camera][row] = to_model_size(frame[camera])
                for name in VECTORS:
                    rows[name][row] = frame[name]
                rows["frame_id"][row] = frame_id
                row += 1
        except WamError as error:
            if not job.skip_episodes:
                raise
            file, _, problem = str(error).partition(": ")
            findings.append(Finding(job.split, piece.episode, file, problem))
    if findings:
        return {}, findings
    rows["proprio"] = proprio.from_robot_obs(rows["robot_obs"])
    return rows, findings
