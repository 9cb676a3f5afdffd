"""Mapped files hold what is in the file, and nothing but memory."""

import gc
from pathlib import Path

import numpy as np
import pytest

from pipeline.batches.mapped import mapped


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_content_without_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 10_001, dtype=np.uint8)
    content.tofile(path)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    arrays = [mapped(path) for _ in range(5)]
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open
    for array in arrays:
        np.testing.assert_array_equal(array, content)
    assert not arrays[0].flags.writeable
    assert mappings(path) >= 1


def test_a_view_keeps_the_memory_and_the_last_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    view = mapped(path)[7:9].view(np.uint16)
    gc.collect()
    assert view[0] == 7 + 256 * 8
    del view
    gc.collect()
    assert mappings(path) == 0


def test_a_file_that_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(OSError, match="empty"):
        mapped(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        mapped(tmp_path / "missing")
