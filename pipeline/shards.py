"""Reading the WebDataset shards: the same sequences as in the store, without Zarr.

They may lie in a directory or behind a URL. Every tar is fetched as a whole and compared with its
digest in the manifest before anything in it is decoded.
"""

import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd

from pipeline import artifacts
from pipeline.cut import Frames
from pipeline.images import all_to_model_size
from pipeline.remote import Source
from pipeline.schema import CAMERAS
from wam.errors import WamError
from wam.proprio import ProprioNormalizer

_SUFFIX = ".npy.zst"


@dataclass(frozen=True)
class Sequence:
    """Consecutive frames of one episode."""

    episode: int
    start: int
    stop: int
    """Rows [start, stop) of the split's store."""
    is_first: bool
    """The sequence begins where the episode begins."""
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
    attributes: dict[str, Any]
    """Those of the split's store."""
    tars: tuple[Tar, ...]
    """In the order of the store."""

    @property
    def episodes(self) -> np.ndarray:
        """int64 [E, 2]: rows [start, stop) of every episode."""
        return _merge(np.concatenate([tar.sequences for tar in self.tars]))

    def proprio_normalizer(self) -> ProprioNormalizer:
        """Min-max normalisation with the statistics of the training split."""
        found = self.attributes["statistics"]["proprio"]
        return ProprioNormalizer(found["min"], found["max"])

    def sequences(self, tar: Tar, names: Collection[str] | None = None) -> Iterator[Sequence]:
        """The sequences of a tar with the arrays called ``names``, by default all.

        Nothing is decoded but JSON and plain arrays. Raises WamError naming a tar that is missing,
        damaged or without such an array.
        """
        where = f"{self.source.location}/{tar.name}"
        try:
            content = self.source.read(tar.name)
        except FileNotFoundError:
            raise WamError(f"{where}: not found; run 'wam export' again") from None
        if artifacts.new_digest(content).hexdigest() != tar.digest:
            raise WamError(f"{where}: damaged shard (wrong checksum); run 'wam export' again")
        try:
            yield from _parse(content, names)
        except KeyError as error:
            raise WamError(f"{where}: no {error.args[0]} in it; run 'wam export' again") from None

    def frames(self, tar: Tar) -> Frames:
        """The frames of a tar from row ``tar.start`` on; errors as :meth:`sequences`."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in Frames._fields}
        for sequence in self.sequences(tar, Frames._fields):
            for name, values in sequence.arrays.items():
                parts[name].append(all_to_model_size(values) if name in CAMERAS else values)
        return Frames.of_arrays({name: np.concatenate(part) for name, part in parts.items()})


def open_split(location: Path | str, split: str) -> ShardSplit:
    """A split of the export at ``location``, a directory or a URL.

    Raises WamError if the export is absent, incomplete, or made by an earlier version.
    """
    source = Source(location)
    manifest, digest = _read_manifest(source)
    if split not in manifest["splits"]:
        raise WamError(
            f"{source.location}: no split '{split}'; known: {', '.join(manifest['splits'])}"
        )
    content = manifest["splits"][split]
    tars = tuple(
        Tar(
            name=(name := f"{split}/{tar['name']}"),
            digest=manifest["files"][name]["digest"],
            sequences=np.asarray(tar["sequences"], np.int64),
        )
        for tar in content["tars"]
    )
    return ShardSplit(source, digest, content["attributes"], tars)


def read_sequences(location: Path | str, split: str) -> Iterator[Sequence]:
    """All sequences of a split, in the order of the store; errors as those of a split."""
    content = open_split(location, split)
    for tar in content.tars:
        yield from content.sequences(tar)


def _read_manifest(source: Source) -> tuple[dict[str, Any], str]:
    where = f"{source.location}/{artifacts.MANIFEST}"
    try:
        text = source.read(artifacts.MANIFEST)
        manifest = json.loads(text)
    except FileNotFoundError:
        raise WamError(
            f"{source.location}: no complete artifact here; run 'wam export' first"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WamError(f"{where}: not valid JSON ({error})") from None
    if manifest.get("stage") != "export" or "splits" not in manifest:
        raise WamError(f"{where}: not of WebDataset shards; run 'wam export' first")
    if any(
        "sequences" not in tar for split in manifest["splits"].values() for tar in split["tars"]
    ):
        raise WamError(f"{where}: made by an earlier version; run 'wam export' again")
    return manifest, artifacts.new_digest(text).hexdigest()


def _parse(content: bytes, names: Collection[str] | None) -> Iterator[Sequence]:
    """The sequences in a tar, whose members are grouped by what precedes their first dot."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            start = member.offset_data
            samples.setdefault(key, {})[field] = content[start : start + member.size]
    for fields in samples.values():
        about = json.loads(fields["json"])
        wanted = names or [
            field.removesuffix(_SUFFIX) for field in fields if field.endswith(_SUFFIX)
        ]
        arrays = {name: _decode(fields[name + _SUFFIX]) for name in wanted}
        yield Sequence(about["episode"], about["start"], about["stop"], about["is_first"], arrays)


def _decode(content: bytes) -> np.ndarray:
    return np.load(io.BytesIO(Zstd().decode(content)), allow_pickle=False)


def _merge(sequences: np.ndarray) -> np.ndarray:
    """int64 [R, 2]: the rows of sequences (episode, start, stop) joined where one continues."""
    breaks = (np.diff(sequences[:, 0]) != 0) | (sequences[1:, 1] != sequences[:-1, 2])
    starts = sequences[np.append(True, breaks), 1]
    stops = sequences[np.append(breaks, True), 2]
    return np.stack([starts, stops], axis=1)
