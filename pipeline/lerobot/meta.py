"""What describes a LeRobot data set: the files below ``meta/``."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.lerobot.data import CHUNK_FILES, FILE_MB, DataFile, ImageStatistics
from pipeline.lerobot.features import Feature
from pipeline.lerobot.split import LeRobotSplit
from pipeline.lerobot.statistics import Statistics, of_levels, of_vectors

CODEBASE_VERSION = "v3.0"
_ROBOT = "panda"
_READ_ROWS = 65_536


def write_meta(
    split: LeRobotSplit, files: list[DataFile], images: ImageStatistics, directory: Path
) -> None:
    """Write all files below ``directory/meta``; ``images`` is of all ``files``."""
    meta = directory / "meta"
    episodes = meta / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.parent.mkdir(parents=True, exist_ok=True)
    _write_json(meta / "info.json", _info(split))
    _write_tasks(meta / "tasks.parquet", split.tasks)
    _write_json(meta / "stats.json", _split_statistics(split, images))
    _write_episodes(episodes, split, files, images)


def _info(split: LeRobotSplit) -> dict[str, Any]:
    store = split.store
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": _ROBOT,
        "total_episodes": len(store.episodes),
        "total_frames": store.num_frames,
        "total_tasks": len(split.tasks),
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": FILE_MB,
        "video_files_size_in_mb": FILE_MB,
        "fps": store.attrs["fps"],
        # Of this data set; whether it is the store's training or validation split, its path says.
        "splits": {"train": f"0:{len(store.episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {column.key: column.info() for column in split.columns},
    }


def _split_statistics(split: LeRobotSplit, images: ImageStatistics) -> dict[str, Statistics]:
    num_frames = split.store.num_frames
    of_images = {
        feature.key: of_levels(feature, images.levels[feature.key], num_frames)
        for feature in split.images
    }
    return of_images | {column.key: _vector_statistics(split, column) for column in split.vectors}


def _vector_statistics(split: LeRobotSplit, feature: Feature) -> Statistics:
    """Of all frames, one element after the other: a quantile needs millions of values at once."""
    num_frames = split.store.num_frames
    found: Statistics = {}
    for element in range(feature.shape[0]):
        parts = [
            split.read(feature, first, min(first + _READ_ROWS, num_frames))[:, element]
            for first in range(0, num_frames, _READ_ROWS)
        ]
        for name, value in of_vectors(np.concatenate(parts)[:, None]).items():
            found[name] = found.get(name, []) + value
    return {**found, "count": [num_frames]}


def _write_tasks(path: Path, tasks: list[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # LeRobot reads it with pandas and finds a task by the index of the frame.
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
            for name, pandas_type, numpy_type in (
                ("task_index", "int64", "int64"),
                ("task", "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], {"pandas": json.dumps(pandas)}
    )
    parquet.write_table(pa.table([range(len(tasks)), tasks], schema), path)


def _write_episodes(
    path: Path, split: LeRobotSplit, files: list[DataFile], images: ImageStatistics
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    places = [file.place for file in files for _ in file.episodes]
    rows = [
        _describe_episode(split, number, place, images.episodes[number])
        for number, place in enumerate(places)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def _describe_episode(
    split: LeRobotSplit, number: int, place: tuple[int, int], of_images: dict[str, Statistics]
) -> dict[str, Any]:
    start, stop = split.store.episodes[number].tolist()
    statistics = {
        **of_images,
        **{feature.key: of_vectors(split.read(feature, start, stop)) for feature in split.vectors},
    }
    return {
        "episode_index": number,
        "tasks": [split.tasks[task] for task in np.unique(split.task_index[start:stop])],
        "length": stop - start,
        "data/chunk_index": place[0],
        "data/file_index": place[1],
        "dataset_from_index": start,
        "dataset_to_index": stop,
        **{
            f"stats/{key}/{name}": value
            for key, values in statistics.items()
            for name, value in values.items()
        },
        # Of the file that this row is in.
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _write_json(path: Path, value: Any) -> None:
    """Unlike our own files with keys in their order: that of the features is the columns'."""
    path.write_text(json.dumps(value, indent=4) + "\n")
