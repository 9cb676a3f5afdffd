"""Reading the Zarr store of one split.

The layout is plain Zarr v3 (``zarr.open_group(path, mode="r")`` reads it); this module adds the
check that it is complete, and the few look-ups that several stages share.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import manifests
from pipeline.artifacts.verify import Verdict, verify
from pipeline.calvin.fields import CAMERAS
from pipeline.store.array_reader import ArrayReader
from pipeline.store.arrays import EPISODE_SCENE, EPISODES, SCHEMA_VERSION, StoreArray
from pipeline.store.disturbed import DisturbedReader
from wam.errors import WamError
from wam.proprio import ProprioNormalizer

_SHARD = re.compile(r"(?P<split>\w+)\.zarr/(?P<array>\w+)/c\.(?P<number>\d+)[.0]*")


@dataclass(frozen=True)
class Store:
    """One split, complete and of the version that this code knows."""

    path: Path
    attrs: dict[str, Any]
    distractors: bool = False
    """Images are read as a model with ``world_model.distractors`` sees them."""
    rows: int | None = None
    """The store ends after so many rows, which end with an episode; None: after all."""

    @property
    def split(self) -> str:
        return str(self.attrs["split"])

    @property
    def num_frames(self) -> int:
        return int(self.attrs["num_frames"]) if self.rows is None else self.rows

    @cached_property
    def arrays(self) -> dict[str, StoreArray]:
        """What every frame has, by name; which images, and of what shape, is up to ``convert``."""
        return {
            name: StoreArray(array["dtype"], tuple(array["shape"]), array["meaning"])
            for name, array in self.attrs["arrays"].items()
        }

    @cached_property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2]: rows [start, stop) of every episode."""
        episodes = self.reader(EPISODES)[:]
        return episodes[episodes[:, 1] <= self.num_frames]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of an array, by default all. Raises WamError if they are damaged."""
        return self.reader(name)[start : self.num_frames if stop is None else stop]

    def reader(self, name: str) -> ArrayReader | DisturbedReader:
        """The reader of the array called ``name``. Raises WamError for an unknown name."""
        if name not in (*self.arrays, EPISODES, EPISODE_SCENE):
            raise WamError(
                f"{self.path}: no array '{name}'; the store has {', '.join(self.arrays)}. Images "
                "are chosen by convert.cameras, convert.depth and convert.extra_keys; run "
                "'wam convert' again"
            )
        if name not in self._readers:
            reader = ArrayReader(self.path / name)
            self._readers[name] = self._disturbed(reader, name) if self.distractors else reader
        return self._readers[name]

    def _disturbed(self, reader: ArrayReader, name: str) -> ArrayReader | DisturbedReader:
        if name not in CAMERAS:
            return reader
        first = self.episodes[:, 0]
        camera, numbers = CAMERAS.index(name), self.frame_ids[first]
        return DisturbedReader(reader, camera, self.episode_of_rows, first, numbers)

    @cached_property
    def _readers(self) -> dict[str, ArrayReader | DisturbedReader]:
        return {}

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

    @cached_property
    def episode_scenes(self) -> list[str | None]:
        """Letter of every episode's scene; None where it is unknown."""
        scenes = [*self.attrs["scenes"], None]  # an unknown one is -1
        places = self.reader(EPISODE_SCENE)[: len(self.episodes)]
        return [scenes[place] for place in places.tolist()]

    def episode_of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Index (int64) of the episode that each row belongs to."""
        return np.searchsorted(self.episodes[:, 0], rows, side="right") - 1

    def beginning(self, share: float) -> "Store":
        """Its first episodes, those that hold at least a ``share`` in (0, 1] of the frames."""
        stops = self.episodes[:, 1]
        rows = int(stops[np.searchsorted(stops, share * self.num_frames)])
        return self if rows == self.num_frames else replace(self, rows=rows)

    def proprio_normalizer(self) -> ProprioNormalizer:
        """Min-max normalisation with the statistics of the training split."""
        found = self.attrs["statistics"]["proprio"]
        return ProprioNormalizer(found["min"], found["max"])


def open_store(path: Path, *, distractors: bool = False) -> Store:
    """The store of one split, ``<layout.store>/training.zarr`` or ``validation.zarr``.

    ``distractors`` is that of the model that is to see its images.
    Raises WamError if it is absent, incomplete, or of another schema version. Sizes of all files
    and content of the metadata are compared with the manifest of the profile's store; what the
    shards hold is checked when it is read.
    """
    if not (path / "zarr.json").is_file():
        raise WamError(f"{path}: no store here; run 'wam convert' first")
    _check_files(path)
    attrs = manifests.read_json(path / "zarr.json").get("attributes", {})
    version = attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise WamError(
            f"{path}: store of schema version {version}, expected {SCHEMA_VERSION}; "
            "run 'wam convert' again"
        )
    store = Store(path, attrs, distractors)
    _check_arrays(store)
    return store


def verify_store(path: Path) -> Verdict:
    """Compare every file of a profile's store, or of one split of it, with the manifest.

    Of a damaged shard the verdict tells the rows and episodes that it holds. Raises WamError if the
    manifest is missing or damaged.
    """
    root, below = (path.parent, f"{path.name}/") if path.suffix == ".zarr" else (path, "")
    verdict = verify(root, below)
    damaged = {damage.file for damage in verdict.damages}
    manifest = manifests.verified_manifest(root)
    damages = [
        replace(damage, problem=f"{damage.problem}; {shard}")
        if (shard := _describe_shard(root, damage.file, manifest, damaged))
        else damage
        for damage in verdict.damages
    ]
    return replace(verdict, damages=damages)


def _check_files(path: Path) -> None:
    if not (path.parent / manifests.MANIFEST).is_file():
        raise WamError(
            f"{path.parent}: incomplete store (no {manifests.MANIFEST}); run 'wam convert' again"
        )
    for name, entry in manifests.verified_manifest(path.parent)["files"].items():
        if name.startswith(f"{path.name}/"):
            file = path.parent / name
            is_metadata = file.name == "zarr.json"
            check = manifests.file_problem if is_metadata else manifests.size_problem
            if problem := check(file, entry):
                raise WamError(f"{file}: {problem}; run 'wam convert' again")


def _check_arrays(store: Store) -> None:
    for name, field in store.arrays.items():
        array = store.reader(name)
        expected = (store.num_frames, *field.shape)
        if array.shape != expected or array.dtype != np.dtype(field.dtype):
            raise WamError(
                f"{store.path}/{name}: {array.dtype} {array.shape}; "
                f"expected {field.dtype} {expected}; run 'wam convert' again"
            )


def _describe_shard(
    root: Path, file: str, manifest: dict[str, Any], damaged: set[str]
) -> str | None:
    """Array, number, rows and episodes of the shard in ``file``; None for any other file."""
    match = _SHARD.fullmatch(file)
    if match is None or match["array"] in (EPISODES, EPISODE_SCENE):
        return None
    first = int(match["number"]) * manifest["params"]["shard_frames"]
    last = first + manifest["params"]["shard_frames"] - 1
    last = min(last, manifest["splits"][match["split"]]["num_frames"] - 1)
    text = f"{match['array']}, shard {match['number']}: rows {first} to {last}"
    table = f"{match['split']}.zarr/{EPISODES}"
    if any(name.startswith(table) for name in damaged):
        return text
    stops = ArrayReader(root / table)[:][:, 1]
    first_episode, last_episode = np.searchsorted(stops, [first, last], side="right").tolist()
    return f"{text}, episodes {first_episode} to {last_episode}"
