"""What a CALVIN data set on disk holds: its small files as they are, and a sample of its frames.

A damaged file stops nothing here. Its error takes the place of its content, so that every check
still gets to see the rest.
"""

import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline import console
from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import language, metadata, on_disk
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.fields import DTYPES, RAW_KEYS, VECTORS
from pipeline.calvin.finding import Finding
from pipeline.calvin.npz import Kind
from pipeline.cores import available_cores
from wam import tasks
from wam.errors import WamError

SAMPLE = 200
"""Frames, episodes and windows of a split that are looked at where not all are asked for."""

FrameLayout = tuple[tuple[str, Kind], ...]
"""Name, dtype and shape of every array of a frame."""
Frame = tuple[FrameLayout, np.ndarray | None]
"""Its layout and its vectors one after the other; None if one lacks or is of another kind."""

T = TypeVar("T")

_CHUNK_FRAMES = 200
_PARALLEL_FRAMES = 4000
"""From here on it pays to start further processes."""


@dataclass(frozen=True, eq=False)
class FrameSample:
    """What was read of some frames."""

    ids: np.ndarray
    """int64 [N], ascending: the frames that hold every vector in its length and type."""
    vectors: dict[str, np.ndarray]
    """float64 [N, length] of each of the schema's vectors."""
    layouts: dict[FrameLayout, tuple[int, int]]
    """How many readable frames look like this, and the id of the first."""
    damaged: list[tuple[int, str]]
    """Id of every unreadable frame, and why."""

    @functools.cached_property
    def arrays(self) -> dict[str, Kind]:
        """The arrays of most frames; empty where none could be read."""
        if not self.layouts:
            return {}
        usual = max(self.layouts, key=lambda layout: self.layouts[layout][0])
        return dict(usual)

    def at(self, ids: np.ndarray) -> np.ndarray:
        """int64 like ``ids``: row of each frame, -1 where it is not in the sample."""
        if not len(self.ids):
            return np.full(np.shape(ids), -1)
        rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)


_NOTHING = FrameSample(
    ids=np.empty(0, np.int64),
    vectors={name: np.empty((0, field.length)) for name, field in VECTORS.items()},
    layouts={},
    damaged=[],
)


@dataclass(frozen=True, eq=False)
class SplitSurvey:
    """One directory of frames."""

    name: str
    directory: Path
    prefix: str
    """From the inspected directory to this one: ``training/`` or nothing."""
    ids: np.ndarray
    """int64 [F], ascending: all frame files, whether or not an episode has them."""
    digits: np.ndarray
    """int64 [F]: digits of the id in each file's name."""
    table: np.ndarray | None
    """int64 [E, 2]: rows of the episode table as they are on disk."""
    lengths: np.ndarray | None
    annotations: language.AnnotationFile | None
    scene_info: dict[str, tuple[int, int]] | None
    recording: metadata.Recording | None
    statistics: dict[str, Any] | None
    unreadable: list[tuple[str, str | Path, str]]
    """Check, path and problem of the files above that are missing or damaged, and None here."""
    sample: FrameSample = _NOTHING

    @functools.cached_property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2], ascending: first and last id (inclusive); reversed rows turned round."""
        if self.table is None:
            return np.empty((0, 2), np.int64)
        rows = self.table[self.table[:, 1] != self.table[:, 0] - 1]
        rows = np.sort(rows, axis=1)
        return rows[np.argsort(rows[:, 0], kind="stable")]

    @functools.cached_property
    def used(self) -> np.ndarray:
        """int64, ascending: the frame files that belong to an episode; all without a table."""
        if not len(self.episodes):
            return self.ids
        return self.ids[self.episode_of(self.ids) >= 0]

    @functools.cached_property
    def windows(self) -> list[language.Annotation]:
        """The annotations that are not empty, without repeated entries."""
        listed = self.annotations.annotations if self.annotations else []
        return [window for window in dict.fromkeys(listed) if window.start < window.stop]

    @property
    def annotations_file(self) -> Path:
        """Below :attr:`directory`."""
        if self.annotations is None:
            return language.ANNOTATIONS
        return self.annotations.path.relative_to(self.directory)

    def episode_of(self, ids: np.ndarray) -> np.ndarray:
        """int64 like ``ids``: row of :attr:`episodes` that each frame id is in, or -1."""
        if not len(self.episodes):
            return np.full(np.shape(ids), -1)
        rows = np.searchsorted(self.episodes[:, 0], ids, side="right") - 1
        # The highest end so far: episodes that overlap, which is a defect, hide no frame.
        inside = (rows >= 0) & (ids <= np.maximum.accumulate(self.episodes[:, 1])[rows])
        return np.where(inside, rows, -1)

    def file(self, name: str | Path) -> str:
        """A file of this split as findings name it."""
        return f"{self.prefix}{name}"

    def frame_file(self, frame_id: int) -> str:
        """A frame file, which need not exist, as findings name it."""
        at = int(np.searchsorted(self.ids, frame_id).clip(max=max(len(self.ids) - 1, 0)))
        digits = int(self.digits[at]) if len(self.digits) else on_disk.DIGITS
        return self.file(on_disk.frame_name(frame_id, digits))

    def of_frames(self, check: str, ids: np.ndarray, found: str, **gaps: Any) -> Finding:
        """The finding ``check`` on the frames ``ids``, of which the first shows ``found``."""
        return finding(check, self.frame_file(int(ids[0])), found, len(ids), **gaps)


@dataclass(frozen=True, eq=False)
class Survey:
    """A data set: a root with one or both splits, or a single split."""

    root: Path
    splits: dict[str, SplitSurvey]

    @functools.cached_property
    def shared(self) -> np.ndarray:
        """int64, ascending: ids of frames that episodes of both splits use."""
        first, *others = (split.used for split in self.splits.values())
        return np.intersect1d(first, others[0]) if others else first[:0]


def find_splits(root: Path) -> dict[str, Path]:
    """The directories of frames at ``root``: itself, or those of the splits; empty if none is."""
    if _holds_frames(root):
        return {root.resolve().name: root}
    found = {name: root / name for name in SPLITS if (root / name).is_dir()}
    return found if any(map(_holds_frames, found.values())) else {}


def read_survey(root: Path, frames: int | None = SAMPLE, annotations: str | None = None) -> Survey:
    """Read the tables of ``root`` and ``frames`` frames of each split; None reads every frame.

    With 0 none is read, and checks of frames find nothing. The sample is spread evenly. The ends of
    the episodes, the ends of the windows of the eight tasks and the frames that both splits use
    come on top of it, up to ``frames`` of each. ``annotations`` names their folder in each split.
    Raises WamError if ``root`` holds no CALVIN frames, or a process that reads frames dies.
    """
    directories = find_splits(root)
    if not directories:
        raise WamError(f"{root}: no CALVIN frames; expected {' or '.join(SPLITS)} with frame files")
    survey = Survey(
        root,
        {name: _open_split(name, at, root, annotations) for name, at in directories.items()},
    )
    if frames == 0:
        return survey
    splits = {}
    for name, split in survey.splits.items():
        ids = split.used if frames is None else _chosen(split, survey.shared, frames)
        splits[name] = replace(split, sample=_read_sample(split, ids))
    return Survey(root, splits)


def spread(values: Any, count: int) -> Any:
    """At most ``count`` of ``values`` (an array or a list), evenly spread, with both ends."""
    if len(values) <= count:
        return values
    places = np.linspace(0, len(values) - 1, count).round().astype(int)
    return values[places] if isinstance(values, np.ndarray) else [values[at] for at in places]


def examined(directory: Path, frame_id: int, digits: int) -> Frame | str:
    """What a frame holds, or why it cannot be read; images are read only to be verified."""
    path = on_disk.frame_path(directory, frame_id, digits)
    try:
        arrays, kinds = on_disk.examine_frame(path, RAW_KEYS)
    except WamError as error:
        return str(error).removeprefix(f"{path}: ")
    for name, field in VECTORS.items():
        dtype, shape = kinds.get(name, ("", ()))
        if dtype not in DTYPES[name] or shape != field.shape:
            return tuple(kinds.items()), None
    return tuple(kinds.items()), np.concatenate([arrays[name] for name in VECTORS])


def _holds_frames(directory: Path) -> bool:
    if (directory / on_disk.EPISODE_TABLE).is_file():
        return True
    names = (path.name for path in directory.iterdir()) if directory.is_dir() else ()
    return any(map(on_disk.parse_frame_name, names))


def _open_split(name: str, directory: Path, root: Path, folder: str | None) -> SplitSurvey:
    listed = on_disk.list_frames(directory)
    unreadable: list[tuple[str, str | Path, str]] = []

    def load(what: str, file: str | Path, read: Callable[[Path], T]) -> T | None:
        try:
            if _is_there(directory, file, folder):
                return read(directory)
            if name == "training" or file != metadata.SCENE_INFO:
                unreadable.append((f"{what}-missing", file, "not found"))
        except WamError as error:
            problem = str(error).removeprefix(f"{directory / file}: ")
            unreadable.append((f"{what}-damaged", file, problem))
        return None

    def annotations(directory: Path) -> language.AnnotationFile:
        return language.read_annotation_file(directory, folder)

    return SplitSurvey(
        name=name,
        directory=directory,
        prefix="" if directory == root else f"{name}/",
        ids=np.array([frame_id for frame_id, _, _ in listed], np.int64),
        digits=np.array([digits for _, digits, _ in listed], np.int64),
        table=load("episode-table", on_disk.EPISODE_TABLE, on_disk.read_episode_table),
        lengths=load("episode-lengths", on_disk.EPISODE_LENGTHS, on_disk.read_episode_lengths),
        statistics=load("statistics", metadata.STATISTICS, metadata.read_statistics),
        recording=load("recording-config", metadata.RECORDING, metadata.read_recording_config),
        annotations=load("annotations", language.ANNOTATIONS, annotations),
        scene_info=load("scene-info", metadata.SCENE_INFO, metadata.read_scene_info),
        unreadable=unreadable,
    )


def _is_there(directory: Path, file: str | Path, folder: str | None) -> bool:
    if file == language.ANNOTATIONS:  # or in the folder of another language model
        return language.annotations_path(directory, folder) is not None
    return os.path.lexists(directory / file)


def _chosen(split: SplitSurvey, shared: np.ndarray, frames: int) -> np.ndarray:
    """Ids of the frames to be read; neighbours come together, as actions lead to the next frame."""
    even = spread(split.used, frames)
    first, last = spread(split.episodes, frames).T
    windows = spread([window for window in split.windows if window.task in tasks.RULES], frames)
    wanted = [even, even + 1, first, first + 1, last - 1, last, spread(shared, frames)]
    wanted.append(np.array([(window.start, window.stop - 1) for window in windows], int).ravel())
    return np.intersect1d(np.concatenate(wanted), split.used)


def _read_sample(split: SplitSurvey, ids: np.ndarray) -> FrameSample:
    digits = split.digits[np.searchsorted(split.ids, ids)]
    complete, rows, damaged = [], [], []
    layouts: dict[FrameLayout, tuple[int, int]] = {}
    frames = _read_frames(split.directory, ids.tolist(), digits.tolist())
    with console.progress(f"inspect {split.name}", len(ids), "frames") as advance:
        for frame_id, frame in zip(ids.tolist(), frames, strict=True):
            advance()
            if isinstance(frame, str):
                damaged.append((frame_id, frame))
                continue
            layout, row = frame
            count, first = layouts.get(layout, (0, frame_id))
            layouts[layout] = (count + 1, first)
            if row is not None:
                complete.append(frame_id)
                rows.append(row)
    stops = np.cumsum([field.length for field in VECTORS.values()])
    columns = np.split(np.array(rows, np.float64).reshape(-1, stops[-1]), stops[:-1], axis=1)
    vectors = dict(zip(VECTORS, columns, strict=True))
    return FrameSample(np.array(complete, np.int64), vectors, layouts, damaged)


def _read_frames(directory: Path, ids: list[int], digits: list[int]) -> Iterator[Frame | str]:
    arguments = (itertools.repeat(directory), ids, digits)
    if len(ids) < _PARALLEL_FRAMES:
        yield from map(examined, *arguments)
        return
    pool = ProcessPoolExecutor(available_cores(), multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(examined, *arguments, chunksize=_CHUNK_FRAMES)
    except BrokenProcessPool:
        raise WamError(
            f"{directory}: a process that reads frames died (out of memory?); look at fewer with "
            "--frames"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
