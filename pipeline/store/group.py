"""The Zarr side of the store: groups, arrays, attributes. The shards' content is written elsewhere.

The attributes are written last: a group without them is not complete.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from pipeline.artifacts import manifests
from pipeline.calvin.fields import DEPTHS
from pipeline.calvin.listing import SplitIndex
from pipeline.calvin.scenes import block_order
from pipeline.params import Convert
from pipeline.store import chunk_codec
from pipeline.store.arrays import (
    EPISODE_SCENE,
    EPISODES,
    MEANINGS,
    ROW_ARRAYS,
    SCHEMA_VERSION,
    SIMULATOR_ATTRIBUTES,
    TABLE_DIMENSIONS,
    StoreArray,
    dimension_names,
)
from pipeline.store.shard_file import write_chunk_file
from wam.config import FPS
from wam.envs.scene_files.geometry import SCENES
from wam.errors import WamError


def store_arrays(split: SplitIndex, settings: Convert) -> dict[str, StoreArray]:
    """What is stored of every frame of a split.

    Raises WamError if the frames do not have what ``settings`` ask for.
    """
    arrays: dict[str, StoreArray] = {}
    for camera in settings.cameras:
        dtype, shape = _recorded(split, camera, f"convert.cameras names {camera}")
        size = _stored_size(camera, shape, settings)
        arrays[camera] = StoreArray(dtype, (*size, *shape[2:]), MEANINGS[camera])
        if settings.depth:
            name = DEPTHS[camera]
            dtype, shape = _recorded(split, name, "convert.depth is set")
            if np.dtype(dtype).kind != "f" or len(shape) != 2:
                raise WamError(
                    f"convert.depth: {name} is {dtype} {shape}; expected an image of floats"
                )
            size = _stored_size(name, shape, settings)
            if size != arrays[camera].shape[:2]:
                raise WamError(
                    f"convert.depth: {name} was recorded with {shape} pixels, {camera} with "
                    f"{arrays[camera].shape[:2]}; expected equally many, or set convert.image_size"
                )
            arrays[name] = StoreArray(dtype, size, MEANINGS[name])
    for key in settings.extra_keys:
        dtype, shape = _recorded(split, key, f"convert.extra_keys names {key}")
        if np.dtype(dtype).kind not in "biuf":
            raise WamError(f"convert.extra_keys: {key} is {dtype}; only numbers can be stored")
        native = np.dtype(dtype).newbyteorder("=")
        arrays[key] = StoreArray(str(native), shape, "as in the raw frames")
    return arrays | ROW_ARRAYS


def create_arrays(
    path: Path, arrays: Mapping[str, StoreArray], num_frames: int, settings: Convert
) -> None:
    """Write the metadata of a split's arrays, keeping the shards that earlier runs have written."""
    # What an earlier run has said of the whole group need not be true of this one.
    (path / "zarr.json").unlink(missing_ok=True)
    group = zarr.open_group(path, mode="a")
    for name, array in arrays.items():
        (path / name / "zarr.json").unlink(missing_ok=True)
        chunk = (settings.chunk_frames, *array.shape)
        shard = (settings.shard_frames, *array.shape)
        group.create_array(
            name,
            shape=(num_frames, *array.shape),
            dtype=array.dtype,
            chunks=chunk if array.is_image else shard,
            shards=shard if array.is_image else None,
            dimension_names=dimension_names(name, array),
            attributes={"meaning": array.meaning},
            **_layout(1 + len(array.shape), array.dtype, settings),
        )


def finish_group(
    path: Path,
    name: str,
    split: SplitIndex,
    arrays: Mapping[str, StoreArray],
    settings: Convert,
    statistics: dict[str, dict[str, Any]],
) -> None:
    """Write the episodes and, last, the attributes; ``statistics`` are those of training."""
    lengths = [stop - start for start, stop in split.episodes]
    stops = np.cumsum(lengths)
    _write_table(
        path,
        EPISODES,
        np.stack([stops - lengths, stops], axis=1).astype(np.int64),
        "first row and one past the last row of every episode",
        settings,
    )
    scenes = [scene for scene in SCENES if scene in split.scenes]
    codes = [-1 if scene is None else scenes.index(scene) for scene in split.scenes]
    _write_table(
        path,
        EPISODE_SCENE,
        np.array(codes, np.int8),
        "place of every episode's scene in the group's attribute 'scenes', -1 where unknown",
        settings,
    )
    _consolidate(path)
    zarr.open_group(path, mode="r+").update_attributes(
        {
            "schema_version": SCHEMA_VERSION,
            "split": name,
            "fps": FPS,
            "num_frames": split.num_frames,
            "arrays": {name: asdict(array) for name, array in arrays.items()},
            "scene": split.scene,
            "scenes": scenes,
            "block_order": {scene: block_order(scene) for scene in scenes},
            **{name: getattr(split, name) for name in SIMULATOR_ATTRIBUTES},
            "source": split.directory,
            "source_digest": split.digest,
            "source_image_shapes": {key: list(v) for key, v in split.image_shapes.items()},
            "statistics": statistics,
            "parameters": parameters(settings),
            "versions": manifests.versions(),
        }
    )


def parameters(settings: Convert) -> dict[str, Any]:
    """The settings that shape the store, and not who writes it."""
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("workers", "dask_address")
    }


def _recorded(split: SplitIndex, name: str, why: str) -> tuple[str, tuple[int, ...]]:
    if name not in split.arrays:
        raise WamError(
            f"{split.directory}: {why}, but the frames have no {name}; found "
            f"{', '.join(split.arrays)}"
        )
    return split.arrays[name]


def _stored_size(name: str, shape: tuple[int, ...], settings: Convert) -> tuple[int, int]:
    height, width = shape[:2]
    if settings.image_size is None:
        return height, width
    if settings.image_size > min(height, width):
        raise WamError(
            f"convert.image_size={settings.image_size}: {name} was recorded with "
            f"{height}x{width} pixels; images are never enlarged"
        )
    return settings.image_size, settings.image_size


def _write_table(path: Path, name: str, rows: np.ndarray, meaning: str, settings: Convert) -> None:
    array = zarr.open_group(path, mode="r+").create_array(
        name,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=rows.shape,
        dimension_names=TABLE_DIMENSIONS[name],
        overwrite=True,
        attributes={"meaning": meaning},
        **_layout(rows.ndim, str(rows.dtype), settings),
    )
    file = path / name / array.metadata.encode_chunk_key((0,) * rows.ndim)
    write_chunk_file(file, rows, len(rows), settings.zstd_level)


def _consolidate(path: Path) -> None:
    """Put the metadata of all arrays into the group's, so that one request opens it over a network.

    Not yet part of Zarr's specification, but in the place where zarr-python and xarray look first;
    others have to pass over it (``must_understand`` is false) and find the arrays' own.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def _layout(rank: int, dtype: str, settings: Convert) -> dict[str, Any]:
    """How the files of an array of ``rank`` axes are named and encoded."""
    return {
        **chunk_codec.zarr_codecs(rank, dtype, settings.zstd_level),
        "fill_value": 0,
        # One flat directory per array: c.<shard>.0.0.0
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }
