"""The frames of a LeRobot data set: ``data/chunk-CCC/file-FFF.parquet``.

A file holds whole episodes. Until the export is complete, what was counted in its images is kept;
an interrupted export goes on with the first file that is not finished.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build
from pipeline.cores import available_cores
from pipeline.lerobot.features import Feature, encode
from pipeline.lerobot.split import LeRobotSplit
from pipeline.lerobot.statistics import Statistics, count_levels, no_levels, of_levels
from wam.reliability.atomic import replacing

CHUNK_FILES = 1000
FILE_MB = 100
_PNG_RATIO = 0.4
"""Size of a typical image of the table as PNG over that of its pixels."""
_GROUP_ROWS = 128
"""Most frames in one row group; all belong to one episode."""


@dataclass(frozen=True)
class DataFile:
    """Consecutive episodes in one file."""

    number: int
    episodes: range

    @property
    def place(self) -> tuple[int, int]:
        """Number of the chunk, and of the file inside it."""
        return divmod(self.number, CHUNK_FILES)

    @property
    def path(self) -> str:
        """Relative to the data set."""
        return "data/chunk-{:03d}/file-{:03d}.parquet".format(*self.place)


@dataclass(frozen=True)
class ImageStatistics:
    """What is known of the images of some files."""

    episodes: list[dict[str, Statistics]]
    """Of every episode, by feature."""
    levels: dict[str, np.ndarray]
    """Of all episodes together, int64 [C, levels] by feature (see :func:`count_levels`)."""


def plan(split: LeRobotSplit) -> list[DataFile]:
    """Files of about 100 MB, by an estimate; an episode that is longer has one of its own."""
    row_bytes = sum(
        np.dtype(feature.dtype).itemsize
        * int(np.prod(feature.shape))
        * (_PNG_RATIO if feature.is_image else 1)
        for feature in split.features
    )
    files: list[DataFile] = []
    first, num_rows = 0, 0
    for number, (start, stop) in enumerate(split.store.episodes.tolist()):
        if num_rows and (num_rows + stop - start) * row_bytes > FILE_MB * 1e6:
            files.append(DataFile(len(files), range(first, number)))
            first, num_rows = number, 0
        num_rows += stop - start
    return [*files, DataFile(len(files), range(first, len(split.store.episodes)))]


def write_files(split: LeRobotSplit, files: list[DataFile], target: Build) -> ImageStatistics:
    """Write those of ``files`` that an earlier run has not finished; the statistics of all."""
    name = split.store.split
    episodes: list[dict[str, Statistics]] = []
    levels = _no_levels(split)
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        console.progress(f"export {name}", split.store.num_frames, "frames") as advance,
    ):
        for file in files:
            part = f"{name}/{file.number:06d}"
            record = target.work / part / "statistics.json"
            if target.is_finished(part):
                rows = split.store.episodes[file.episodes]
                advance(int((rows[:, 1] - rows[:, 0]).sum()))
            else:
                path = target.directory / name / file.path
                manifests.write_json(record, _write_file(split, file, path, pool, advance))
                target.finish(part, [path, record])
            found = manifests.read_json(record)
            episodes += found["episodes"]
            for key, values in found["levels"].items():
                levels[key] += values
    return ImageStatistics(episodes, levels)


def _write_file(
    split: LeRobotSplit,
    file: DataFile,
    path: Path,
    pool: ThreadPoolExecutor,
    advance: Callable[..., None],
) -> dict[str, Any]:
    """Write one file; ``episodes`` and ``levels`` of its :class:`ImageStatistics`, JSON-like."""
    from pyarrow import parquet  # not installed everywhere

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(split.columns)
    total = _no_levels(split)
    episodes = []
    with (
        replacing(path) as temporary,
        parquet.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=False
        ) as writer,
    ):
        for start, stop in split.store.episodes[file.episodes].tolist():
            levels = _no_levels(split)
            for first in range(start, stop, _GROUP_ROWS):
                last = min(first + _GROUP_ROWS, stop)
                writer.write_table(_table(split, first, last, schema, levels, pool))
                advance(last - first)
            episodes.append(
                {
                    feature.key: of_levels(feature, levels[feature.key], stop - start)
                    for feature in split.images
                }
            )
            for key, counts in levels.items():
                total[key] += counts
    return {"episodes": episodes, "levels": {key: total[key].tolist() for key in total}}


def _table(
    split: LeRobotSplit,
    start: int,
    stop: int,
    schema: Any,
    levels: dict[str, np.ndarray],
    pool: ThreadPoolExecutor,
) -> Any:
    """Rows [start, stop) as an Arrow table; the levels of the images are added to ``levels``."""
    import pyarrow as pa

    columns = []
    for feature in split.columns:
        rows = split.read(feature, start, stop)
        column_type = schema.field(feature.key).type
        if feature.is_image:
            images = []
            for content, counts in pool.map(_encode_and_count, [feature] * len(rows), rows):
                images.append({"bytes": content, "path": None})
                levels[feature.key] += counts
            columns.append(pa.array(images, column_type))
        elif feature.shape == (1,):
            columns.append(pa.array(rows[:, 0], column_type))
        else:
            flat = pa.array(rows.ravel(), column_type.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=column_type))
    return pa.table(columns, schema)


def _no_levels(split: LeRobotSplit) -> dict[str, np.ndarray]:
    return {feature.key: no_levels(feature) for feature in split.images}


def _encode_and_count(feature: Feature, image: np.ndarray) -> tuple[bytes, np.ndarray]:
    return encode(feature, image), count_levels(feature, image)


def _schema(columns: list[Feature]) -> Any:
    """The Arrow schema, with the metadata by which the ``datasets`` library knows images."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    for column in columns:
        value = {"dtype": column.dtype, "_type": "Value"}
        if column.is_image:
            fields.append((column.key, image))
            known[column.key] = {"_type": "Image"}
        elif column.shape == (1,):
            fields.append((column.key, pa.type_for_alias(column.dtype)))
            known[column.key] = value
        else:
            (length,) = column.shape
            fields.append((column.key, pa.list_(pa.type_for_alias(column.dtype), length)))
            known[column.key] = {"feature": value, "length": length, "_type": "List"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": known}})})
