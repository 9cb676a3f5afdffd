"""Reading the WebDataset shards: the same sequences as in the store, without Zarr."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numcodecs import Zstd

from pipeline import artifacts
from pipeline.schema import STORE_ARRAYS
from wam.errors import WamError


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


def read_sequences(directory: Path, split: str) -> Iterator[Sequence]:
    """All sequences of a split, in the order of the store.

    Raises WamError if the shards are absent or incomplete, or a tar is missing or damaged.
    """
    manifest = artifacts.read_manifest(directory, "export")
    if split not in manifest["splits"]:
        raise WamError(f"{directory}: no split '{split}'; known: {', '.join(manifest['splits'])}")
    for tar in manifest["splits"][split]["tars"]:
        num_sequences = 0
        for sequence in read_tar(directory / split / tar["name"]):
            yield sequence
            num_sequences += 1
        if num_sequences != tar["num_sequences"]:  # a tar cut between two members reads well
            raise WamError(
                f"{directory / split / tar['name']}: damaged shard ({num_sequences} of "
                f"{tar['num_sequences']} sequences); run 'wam export' again"
            )


def read_tar(path: Path) -> Iterator[Sequence]:
    """The sequences of one tar. Raises WamError naming it if it is missing or damaged.

    Nothing is decoded but JSON and plain arrays, whatever the tar contains.
    """
    codec = Zstd()
    try:
        key, fields = "", dict[str, bytes]()
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, _, field = member.name.partition(".")
                if name != key and fields:
                    yield _sequence(fields, codec)
                    fields = {}
                key = name
                content = tar.extractfile(member)
                if content is not None:
                    fields[field] = content.read()
        if fields:
            yield _sequence(fields, codec)
    except FileNotFoundError:
        raise WamError(f"{path}: not found; run 'wam export' again") from None
    except (tarfile.TarError, EOFError, KeyError, RuntimeError, ValueError) as error:
        raise WamError(f"{path}: damaged shard ({error}); run 'wam export' again") from None


def _sequence(fields: dict[str, bytes], codec: Zstd) -> Sequence:
    about = json.loads(fields["json"])
    arrays = {
        name: np.load(io.BytesIO(codec.decode(fields[f"{name}.npy.zst"])), allow_pickle=False)
        for name in STORE_ARRAYS
    }
    return Sequence(about["episode"], about["start"], about["stop"], about["is_first"], arrays)
