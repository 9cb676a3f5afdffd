"""The content of an export."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.webdataset.read import Sample, open_split


def read_sequences(location: Path | str, split: str) -> Iterator[Sample]:
    """All sequences of a split, in the order of the store; errors as those of a split."""
    content = open_split(location, split)
    for tar in content.tars:
        yield from content.samples(tar)
