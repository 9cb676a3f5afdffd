"""What a CALVIN data set on disk holds: its small files as they are, and a sample of its frames.

A damaged file stops nothing here. Its error takes the place of its content, so that every check
still gets to see the rest.
"""

import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from pipeline import console
from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import language, metadata, on_disk
from pipeline.calvin.fields import RAW_KEYS, VECTORS
from wam import tasks
from wam.errors import WamError

SAMPLE = 200
"""Frames, episodes and windows of a split that are looked at where not all are asked for."""

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of every array of a frame."""
Arrays = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape by name."""

T = TypeVar("T")
Loaded: TypeAlias = T | WamError | None
"""The content of a file, what is wrong with it, or None where there is no such file."""

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
    layouts: dict[Layout, tuple[int, int]]
    """How many readable frames look like this, and the id of the first."""
    damaged: list[tuple[int, str]]
    """Id of every unreadable frame, and why."""

    @functools.cached_property
    def arrays(self) -> Arrays:
        """The arrays of most frames; empty where none could be read."""
        layout = max(self.layouts, key=lambda found: self.layouts[found][0], default=())
        return {key: (dtype, shape) for key, dtype, shape in layout}

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
class Split:
    """One directory of frames."""

    name: str
    directory: Path
    prefix: str
    """From the inspected directory to this one: ``training/`` or nothing."""
    ids: np.ndarray
    """int64 [F], ascending: all frame files, whether or not an episode has them."""
    digits: np.ndarray
    """int64 [F]: digits of the id in each file's name."""
    table: Loaded[np.ndarray]
    """int64 [E, 2]: rows of the episode table as they are on disk."""
    lengths: Loaded[np.ndarray]
    annotations: Loaded[list[language.Annotation]]
    """As they are on disk, with repeated entries."""
    scene_info: Loaded[dict[str, tuple[int, int]]]
    recording: Loaded[metadata.Recording]
    statistics: Loaded[dict[str, Any]]
    annotations_file: Path = language.ANNOTATIONS
    """Below :attr:`directory`."""
    num_rephrased: int = 0
    """Annotations with several sentences, of which the first is used."""
    sample: FrameSample = _NOTHING

    @functools.cached_property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2], ascending: first and last id (inclusive); reversed rows turned round."""
        if not isinstance(self.table, np.ndarray):
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
        listed = self.annotations if isinstance(self.annotations, list) else []
        return [window for window in dict.fromkeys(listed) if window.start < window.stop]

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


@dataclass(frozen=True, eq=False)
class Survey:
    """A data set: a root with one or both splits, or a single split."""

    root: Path
    splits: dict[str, Split]
    shared: np.ndarray
    """int64, ascending: ids of frames that episodes of both splits use."""

    @property
    def is_root(self) -> bool:
        """Whether the splits are directories below ``root``."""
        return any(split.prefix for split in self.splits.values())


def find_splits(root: Path) -> dict[str, Path]:
    """The directories of frames at ``root``: itself, or those of the splits; empty if none is."""
    if _holds_frames(root):
        return {root.resolve().name: root}
    found = {name: root / name for name in SPLITS if (root / name).is_dir()}
    return found if any(map(_holds_frames, found.values())) else {}


def read_survey(root: Path, frames: int | None = SAMPLE) -> Survey:
    """Read the tables of ``root`` and ``frames`` frames of each split; None reads every frame.

    With 0 none is read, and checks of frames find nothing. The sample is spread evenly. The ends of
    the episodes, the ends of the windows of the eight tasks and the frames that both splits use
    come on top of it, up to ``frames`` of each. Raises WamError if ``root`` holds no CALVIN frames,
    or a process that reads frames dies.
    """
    directories = find_splits(root)
    if not directories:
        raise WamError(f"{root}: no CALVIN frames; expected {' or '.join(SPLITS)} with frame files")
    splits = {name: _open_split(name, path, root) for name, path in directories.items()}
    shared = functools.reduce(np.intersect1d, [split.used for split in splits.values()])
    if len(splits) == 1:
        shared = shared[:0]
    if frames == 0:
        return Survey(root, splits, shared)
    for name, split in splits.items():
        ids = split.used if frames is None else _chosen(split, shared, frames)
        splits[name] = replace(split, sample=_read_sample(split, ids))
    return Survey(root, splits, shared)


def spread(values: Any, count: int) -> Any:
    """At most ``count`` of ``values`` (an array or a list), evenly spread, with both ends."""
    if len(values) <= count:
        return values
    places = np.linspace(0, len(values) - 1, count).round().astype(int)
    return values[places] if isinstance(values, np.ndarray) else [values[at] for at in places]


def read_frames(directory: Path, ids: np.ndarray, digits: np.ndarray) -> FrameSample:
    """The frames called ``ids``, ``digits`` of each name; images are read only to be verified."""
    complete: list[int] = []
    rows: dict[str, list[np.ndarray]] = {name: [] for name in VECTORS}
    layouts: dict[Layout, tuple[int, int]] = {}
    damaged: list[tuple[int, str]] = []
    for frame_id, width in zip(ids.tolist(), digits.tolist(), strict=True):
        path = on_disk.frame_path(directory, frame_id, width)
        try:
            frame, arrays = on_disk.examine_frame(path, RAW_KEYS)
        except WamError as error:
            damaged.append((frame_id, str(error).removeprefix(f"{path}: ")))
            continue
        layout = tuple((key, *kind) for key, kind in arrays.items())
        count, first = layouts.get(layout, (0, frame_id))
        layouts[layout] = (count + 1, first)
        if all(_is_vector(frame.get(name), field.length) for name, field in VECTORS.items()):
            complete.append(frame_id)
            for name, values in rows.items():
                values.append(frame[name])
    vectors = {
        name: np.array(values, np.float64).reshape(-1, VECTORS[name].length)
        for name, values in rows.items()
    }
    return FrameSample(np.array(complete, np.int64), vectors, layouts, damaged)


def _is_vector(value: np.ndarray | None, length: int) -> bool:
    return (
        value is not None and value.shape == (length,) and value.dtype in (np.float32, np.float64)
    )


def _holds_frames(directory: Path) -> bool:
    if not directory.is_dir():
        return False
    if (directory / on_disk.EPISODE_TABLE).is_file():
        return True
    with os.scandir(directory) as entries:
        return any(on_disk.parse_frame_name(entry.name) for entry in entries)


def _open_split(name: str, directory: Path, root: Path) -> Split:
    listed = on_disk.list_frames(directory)

    def load(file: str | Path, read: Callable[[Path], T]) -> Loaded[T]:
        if not os.path.lexists(directory / file):
            return None
        try:
            return read(directory)
        except WamError as error:
            return error

    windows = _annotations(directory)
    split = Split(
        name=name,
        directory=directory,
        prefix="" if directory == root else f"{name}/",
        ids=np.array([frame_id for frame_id, _, _ in listed], np.int64),
        digits=np.array([digits for _, digits, _ in listed], np.int64),
        table=load(on_disk.EPISODE_TABLE, on_disk.read_episode_table),
        lengths=load(on_disk.EPISODE_LENGTHS, on_disk.read_episode_lengths),
        annotations=None if isinstance(windows, language.AnnotationFile) else windows,
        scene_info=load(metadata.SCENE_INFO, metadata.read_scene_info),
        recording=load(metadata.RECORDING, metadata.read_recording_config),
        statistics=load(metadata.STATISTICS, metadata.read_statistics),
    )
    if not isinstance(windows, language.AnnotationFile):
        return split
    return replace(
        split,
        annotations=windows.annotations,
        annotations_file=windows.path.relative_to(directory),
        num_rephrased=windows.num_rephrased,
    )


def _annotations(directory: Path) -> Loaded[language.AnnotationFile]:
    try:
        is_there = language.annotations_path(directory) is not None
        return language.read_annotation_file(directory) if is_there else None
    except WamError as error:
        return error


def _chosen(split: Split, shared: np.ndarray, frames: int) -> np.ndarray:
    """Ids of the frames to be read; neighbours come together, as actions lead to the next frame."""
    even = spread(split.used, frames)
    first, last = spread(split.episodes, frames).T
    windows = spread([window for window in split.windows if window.task in tasks.RULES], frames)
    wanted = [even, even + 1, first, first + 1, last - 1, last, spread(shared, frames)]
    wanted.append(np.array([(window.start, window.stop - 1) for window in windows], int).ravel())
    return np.intersect1d(np.concatenate(wanted), split.used)


def _read_sample(split: Split, ids: np.ndarray) -> FrameSample:
    digits = split.digits[np.searchsorted(split.ids, ids)]
    edges = range(0, len(ids), _CHUNK_FRAMES)
    chunks = [(ids[at : at + _CHUNK_FRAMES], digits[at : at + _CHUNK_FRAMES]) for at in edges]
    parts = []
    with console.progress(f"inspect {split.name}", len(ids), "frames") as advance:
        for (chunk, _), part in zip(chunks, _read_chunks(split.directory, chunks), strict=True):
            parts.append(part)
            advance(len(chunk))
    return _merge(parts)


def _read_chunks(
    directory: Path, chunks: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Iterator[FrameSample]:
    if len(chunks) * _CHUNK_FRAMES < _PARALLEL_FRAMES:
        for ids, digits in chunks:
            yield read_frames(directory, ids, digits)
        return
    pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(
            read_frames,
            itertools.repeat(directory),
            [ids for ids, _ in chunks],
            [digits for _, digits in chunks],
        )
    except BrokenProcessPool:
        raise WamError(
            f"{directory}: a process that reads frames died (out of memory?); look at fewer with "
            "--frames"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _merge(parts: Sequence[FrameSample]) -> FrameSample:
    """One sample of all parts, whose ids ascend."""
    parts = [_NOTHING, *parts]
    layouts: dict[Layout, tuple[int, int]] = {}
    for part in parts:
        for layout, (count, first) in part.layouts.items():
            known, earlier = layouts.get(layout, (0, first))
            layouts[layout] = (known + count, earlier)
    return FrameSample(
        ids=np.concatenate([part.ids for part in parts]),
        vectors={name: np.concatenate([part.vectors[name] for part in parts]) for name in VECTORS},
        layouts=layouts,
        damaged=[found for part in parts for found in part.damaged],
    )
