"""Reading the WebDataset shards: the same sequences as in the store, without Zarr.

They may lie in a directory or behind a URL. Every tar is fetched as a whole and compared with its
digest in the manifest before anything in it is decoded.
"""

import io
import json
import math
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numcodecs import Zstd
from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.artifacts import manifests
from pipeline.calvin.fields import CAMERAS
from pipeline.pictures.images import all_to_model_size
from pipeline.store.arrays import StoreArray
from pipeline.store.frames import Frames
from pipeline.webdataset.remote import Source
from wam.errors import WamError
from wam.proprio import ProprioNormalizer

SUFFIX = ".npy.zst"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NPY_HEADER_BYTES = 10_000
_DAMAGED = (tarfile.TarError, ArithmeticError, RuntimeError, TypeError, ValueError, EOFError)
"""What decoders raise for bytes that they do not understand."""


class _TarEntry(BaseModel):
    name: str
    sequences: list[tuple[int, int, int]] = Field(min_length=1)


class _Attributes(BaseModel):
    arrays: dict[str, StoreArray]
    statistics: dict[str, dict[str, Any]]


class _Split(BaseModel):
    tars: list[_TarEntry]
    attributes: _Attributes


class _File(BaseModel):
    digest: str


class _Manifest(BaseModel):
    """What is read of a manifest, which may come from anywhere."""

    splits: dict[str, _Split]
    files: dict[str, _File]

    @model_validator(mode="after")
    def every_tar_has_a_digest(self) -> Self:
        for split, content in self.splits.items():
            for tar in content.tars:
                if f"{split}/{tar.name}" not in self.files:
                    raise ValueError(f"{split}/{tar.name} is not among the files")
        return self


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of one episode, which make one sample."""

    episode: int
    start: int
    stop: int
    """Rows [start, stop) of the split's store."""
    is_first: bool
    """It begins where the episode begins."""


@dataclass(frozen=True)
class Sample(Stretch):
    """A stretch and what is stored of it."""

    arrays: dict[str, np.ndarray]
    """[T, ...] by name, as in the store."""


@dataclass(frozen=True, eq=False)
class Tar:
    """One file of a split; it holds consecutive rows of the split's store."""

    name: str
    """Relative to the export's directory."""
    digest: str
    sequences: np.ndarray
    """int64 [S, 3]: episode, first row and one past the last row of every sequence."""

    @property
    def start(self) -> int:
        """First row."""
        return int(self.sequences[0, 1])

    @property
    def stop(self) -> int:
        """One past the last row."""
        return int(self.sequences[-1, 2])

    @property
    def runs(self) -> np.ndarray:
        """int64 [R, 2]: rows [start, stop) that follow each other in one episode."""
        return _merge(self.sequences)


@dataclass(frozen=True, eq=False)
class ShardSplit:
    """One split of an export."""

    source: Source
    digest: str
    """Of the export's manifest, which holds a digest of every file."""
    attributes: _Attributes
    """Of those of the split's store."""
    tars: tuple[Tar, ...]
    """In the order of the store."""

    @property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2]: rows [start, stop) of every episode."""
        return _merge(np.concatenate([tar.sequences for tar in self.tars]))

    def proprio_normalizer(self) -> ProprioNormalizer:
        """Min-max normalisation with the statistics of the training split."""
        found = self.attributes.statistics["proprio"]
        return ProprioNormalizer(found["min"], found["max"])

    def expect(self, tar: Tar) -> None:
        """Fetch a remote tar in the background that is soon to be read."""
        self.source.expect(tar.name)

    def samples(self, tar: Tar, names: Collection[str] | None = None) -> Iterator[Sample]:
        """The sequences of a tar with the arrays called ``names``, by default all.

        Nothing is decoded but JSON and plain arrays. Raises WamError naming a tar that is missing,
        damaged or without such an array.
        """
        where = f"{self.source.location}/{tar.name}"
        try:
            content = self.source.read(tar.name)
        except FileNotFoundError:
            raise WamError(f"{where}: not found; run 'wam export' again") from None
        if manifests.new_digest(content).hexdigest() != tar.digest:
            raise WamError(f"{where}: damaged shard (wrong checksum); run 'wam export' again")
        stated = self.attributes.arrays
        wanted = list(stated) if names is None else list(names)
        try:
            samples = _samples(content)
            if len(samples) != len(tar.sequences):
                raise ValueError(f"{len(samples)} samples, expected {len(tar.sequences)}")
            for fields, rows in zip(samples, tar.sequences.tolist(), strict=True):
                yield _sample(fields, rows, {name: stated[name] for name in wanted})
        except KeyError as error:
            raise WamError(f"{where}: no {error.args[0]} in it; run 'wam export' again") from None
        except _DAMAGED as error:
            raise WamError(f"{where}: damaged shard ({error}); run 'wam export' again") from None

    def frames(self, tar: Tar) -> Frames:
        """The frames of a tar from row ``tar.start`` on; errors as :meth:`sequences`."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in Frames._fields}
        for sequence in self.samples(tar, Frames._fields):
            for name, values in sequence.arrays.items():
                parts[name].append(all_to_model_size(values) if name in CAMERAS else values)
        return Frames.of_arrays({name: np.concatenate(part) for name, part in parts.items()})


def open_split(location: Path | str, split: str) -> ShardSplit:
    """A split of the export at ``location``, a directory or a URL.

    Raises WamError if the export is absent, incomplete, or made by an earlier version.
    """
    source = Source(location)
    manifest, digest = _read_manifest(source)
    if split not in manifest.splits:
        raise WamError(
            f"{source.location}: no split '{split}'; known: {', '.join(manifest.splits)}"
        )
    content = manifest.splits[split]
    named = [(f"{split}/{tar.name}", tar.sequences) for tar in content.tars]
    tars = tuple(
        Tar(name, manifest.files[name].digest, np.array(sequences, np.int64))
        for name, sequences in named
    )
    return ShardSplit(source, digest, content.attributes, tars)


def _read_manifest(source: Source) -> tuple[_Manifest, str]:
    """The manifest, and the digest of what it says of the content."""
    where = f"{source.location}/{manifests.MANIFEST}"
    try:
        manifest = json.loads(source.read(manifests.MANIFEST))
    except FileNotFoundError:
        raise WamError(
            f"{source.location}: no complete artifact here; run 'wam export' first"
        ) from None
    except (ValueError, RecursionError) as error:
        raise WamError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("stage") != "export":
        raise WamError(f"{where}: not of WebDataset shards; run 'wam export' first")
    try:
        return _Manifest.model_validate(manifest), manifests.content_digest(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise WamError(
            f"{where}: made by an earlier version, or damaged ({place}: {first['msg']}); run "
            "'wam export' again"
        ) from None


def _samples(content: bytes) -> list[dict[str, bytes]]:
    """The fields of every sample in a tar: members are grouped by what precedes their first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            start = member.offset_data
            samples.setdefault(key, {})[field] = content[start : start + member.size]
    return list(samples.values())


def _sample(fields: dict[str, bytes], rows: list[int], arrays: dict[str, StoreArray]) -> Sample:
    """A sample as a sequence, whose ``rows`` (episode, start, stop) and arrays are as stated."""
    about = json.loads(fields["json"])
    episode, start, stop = rows
    if [about["episode"], about["start"], about["stop"]] != rows:
        raise ValueError(f"a sample of {about}, expected episode {episode}, rows {start} to {stop}")
    decoded = {}
    for name, stated in arrays.items():
        dtype, shape = np.dtype(stated.dtype), (stop - start, *stated.shape)
        decoded[name] = _decode(fields[name + SUFFIX], dtype.itemsize * math.prod(shape))
        if (decoded[name].dtype, decoded[name].shape) != (dtype, shape):
            found = f"{decoded[name].dtype} {decoded[name].shape}"
            raise ValueError(f"{name} is {found}, expected {dtype} {shape}")
    return Sample(episode, start, stop, bool(about["is_first"]), decoded)


def _decode(content: bytes, num_bytes: int) -> np.ndarray:
    """A compressed ``.npy`` file with ``num_bytes`` of data; no more is decompressed."""
    size = _decompressed_size(content)
    if size > num_bytes + _NPY_HEADER_BYTES:
        raise ValueError(f"an array of {size:,} bytes, expected {num_bytes:,}")
    return np.load(io.BytesIO(Zstd().decode(content)), allow_pickle=False)


def _decompressed_size(frame: bytes) -> int:
    """What a Zstandard frame says of its content (RFC 8878, 3.1.1.1)."""
    if frame[:4] != _ZSTD_MAGIC or len(frame) < 5:
        raise ValueError("an array that is not compressed with Zstandard")
    descriptor = frame[4]
    single_segment = descriptor >> 5 & 1
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not size_bytes or len(frame) < start + size_bytes:
        raise ValueError("an array of unknown size")
    return int.from_bytes(frame[start : start + size_bytes], "little") + 256 * (size_bytes == 2)


def _merge(sequences: np.ndarray) -> np.ndarray:
    """int64 [R, 2]: the rows of sequences (episode, start, stop) joined where one continues."""
    breaks = (np.diff(sequences[:, 0]) != 0) | (sequences[1:, 1] != sequences[:-1, 2])
    starts = sequences[np.append(True, breaks), 1]
    stops = sequences[np.append(breaks, True), 2]
    return np.stack([starts, stops], axis=1)
