"""Reading the Zarr store of one split.

The layout is plain Zarr v3 (``zarr.open_group(path, mode="r")`` reads it); this module adds the
check that it is complete, and the few look-ups that several stages share.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline import artifacts
from pipeline.schema import EPISODES, SCHEMA_VERSION, STORE_ARRAYS
from pipeline.shard_job import shard_file, shard_rows
from wam.errors import WamError
from wam.proprio import ProprioNormalizer


@dataclass(frozen=True)
class Store:
    """One split, complete and of the version that this code knows."""

    path: Path
    group: zarr.Group
    attrs: dict[str, Any]

    @property
    def split(self) -> str:
        return str(self.attrs["split"])

    @property
    def num_frames(self) -> int:
        return int(self.attrs["num_frames"])

    @cached_property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2]: rows [start, stop) of every episode."""
        return self.read(EPISODES)

    def array(self, name: str) -> zarr.Array[Any]:
        """The Zarr array called ``name``. Raises WamError for an unknown name."""
        if name not in STORE_ARRAYS and name != EPISODES:
            raise WamError(f"{self.path}: no array '{name}'; known: {', '.join(STORE_ARRAYS)}")
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of an array, by default all. Raises WamError if they are damaged."""
        array = self.array(name)
        try:
            return np.asarray(array[start:stop])
        except (RuntimeError, ValueError) as error:
            raise WamError(
                f"{self.path}/{name}: damaged between rows {start} and {stop} ({error}); "
                "run 'wam convert' again"
            ) from None

    def rows_of_frame_ids(self, frame_ids: np.ndarray) -> np.ndarray:
        """Rows (int64) of raw frame ids. Raises WamError naming the first that is not stored."""
        ids = np.asarray(frame_ids, np.int64)
        rows = np.searchsorted(self.frame_ids, ids)
        found = self.frame_ids[np.minimum(rows, self.num_frames - 1)] == ids
        if not found.all():
            raise WamError(f"{self.path}: frame {ids[~found].flat[0]} is not in the store")
        return rows

    @cached_property
    def frame_ids(self) -> np.ndarray:
        """int64 [N], ascending."""
        return self.read("frame_id")

    def episode_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Index (int64) of the episode that each row belongs to."""
        return np.searchsorted(self.episodes[:, 0], rows, side="right") - 1

    def proprio_normalizer(self) -> ProprioNormalizer:
        """Min-max normalisation with the statistics of the training split."""
        return ProprioNormalizer.from_dict(self.attrs)


def open_store(path: Path) -> Store:
    """The store of one split, ``<layout.store>/training.zarr`` or ``validation.zarr``.

    Raises WamError if it is absent, incomplete (the attributes or a shard's file are missing), or
    of another schema version.
    """
    if not (path / "zarr.json").is_file():
        raise WamError(f"{path}: no store here; run 'wam convert' first")
    group = zarr.open_group(path, mode="r")
    attrs = dict(group.attrs)
    version = attrs.get("schema_version")
    if version is None:
        raise WamError(f"{path}: incomplete store (no attributes); run 'wam convert' again")
    if version != SCHEMA_VERSION:
        raise WamError(
            f"{path}: store of schema version {version}, expected {SCHEMA_VERSION}; "
            "run 'wam convert' again"
        )
    store = Store(path, group, attrs)
    _check_complete(store)
    return store


def verify_store(path: Path) -> list[str]:
    """Names of the shard files below a profile's store that differ from its manifest.

    Raises WamError if the manifest or a file is missing.
    """
    manifest = artifacts.read_manifest(path, "convert")
    damaged = []
    for split, content in manifest["splits"].items():
        for index, files in enumerate(content["shards"]):
            for name, digest in files.items():
                file = shard_file(path / f"{split}.zarr", name, index)
                if not file.is_file():
                    raise WamError(f"{file}: missing; run 'wam convert' again")
                if artifacts.file_digest(file) != digest:
                    damaged.append(str(file))
    return damaged


def _check_complete(store: Store) -> None:
    for name, field in STORE_ARRAYS.items():
        if not (store.path / name / "zarr.json").is_file():
            raise WamError(f"{store.path}: incomplete store (no {name}); run 'wam convert' again")
        array = store.array(name)
        expected = (store.num_frames, *field.shape)
        if array.shape != expected or array.dtype != np.dtype(field.dtype):
            raise WamError(
                f"{store.path}/{name}: {array.dtype} {array.shape}; "
                f"expected {field.dtype} {expected}; run 'wam convert' again"
            )
        present = {path.name for path in (store.path / name).iterdir()}
        for index in range(-(-store.num_frames // shard_rows(array))):
            file = shard_file(store.path, name, index)
            if file.name not in present:
                raise WamError(f"{file}: shard missing; run 'wam convert' again")
