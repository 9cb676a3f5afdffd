import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import TransposeCodec, ZstdCodec

from pipeline.artifacts.layout import Layout
from pipeline.store.array_reader import ArrayReader
from pipeline.store.chunk_codec import zarr_codecs
from pipeline.store.open import open_store
from wam.errors import WamError

ROWS, CHUNK, SHARD = 46, 4, 12
"""The last chunk and the last shard are not full."""

_CONFIG = {"array.write_empty_chunks": True}
_PLACES = {"fill_value": 0, "chunk_key_encoding": {"name": "default", "separator": "."}}
_KINDS: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "image": ("uint8", (5, 6, 3), True),
    "depth": ("float32", (5, 6), True),
    "vector": ("float64", (7,), False),
    "number": ("int64", (), False),
    "small": ("int8", (), False),
}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> zarr.Group:
    """Arrays of all kinds, written by Zarr itself."""
    rng = np.random.default_rng(0)
    with zarr.config.set(_CONFIG):
        group = zarr.open_group(tmp_path_factory.mktemp("arrays"), mode="a")
        for name, (dtype, shape, sharded) in _KINDS.items():
            values = rng.integers(0, 100, (ROWS, *shape)).astype(dtype)
            values[:CHUNK] = 0  # a chunk of nothing but the fill value
            group.create_array(
                name,
                shape=values.shape,
                dtype=dtype,
                chunks=(CHUNK if sharded else SHARD, *shape),
                shards=(SHARD, *shape) if sharded else None,
                **zarr_codecs(values.ndim, dtype, 3),
                **_PLACES,
            )[:] = values
    return group


def directory(group: zarr.Group, name: str = "") -> Path:
    return Path(str(group.store_path)[len("file://") :]) / name


@settings(deadline=None, max_examples=150)
@given(name=st.sampled_from(list(_KINDS)), data=st.data())
def test_every_slice_equals_what_zarr_reads(
    group: zarr.Group, name: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, ROWS))
    stop = data.draw(st.one_of(st.none(), st.integers(0, ROWS + 5)))
    expected = group[name][start:stop]  # type: ignore[index]
    found = ArrayReader(directory(group, name))[start:stop]
    assert found.dtype == expected.dtype  # type: ignore[union-attr]
    np.testing.assert_array_equal(found, expected)


def test_the_stores_arrays_equal_what_zarr_reads(converted: Layout) -> None:
    store = open_store(converted.store / "training.zarr")
    group = zarr.open_group(store.path, mode="r")
    for name in [*store.arrays, "episodes"]:
        np.testing.assert_array_equal(store.read(name), group[name][:])


def test_rows_are_copied_into_memory_of_any_order(group: zarr.Group) -> None:
    reader = ArrayReader(directory(group, "image"))
    target = np.zeros((9, 2, 5, 6, 3), np.uint8)
    reader.copy(2, target[:, 1])
    np.testing.assert_array_equal(target[:, 1], reader[2:11])
    assert not target[:, 0].any()


def test_many_threads_read_the_same(group: zarr.Group) -> None:
    reader = ArrayReader(directory(group, "image"))
    expected = group["image"][:]  # type: ignore[index]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda row: reader[row : row + 10], list(range(ROWS - 10)) * 4))
    for number, part in enumerate(parts):
        row = number % (ROWS - 10)
        np.testing.assert_array_equal(part, expected[row : row + 10])  # type: ignore[index]


@pytest.mark.parametrize("name, file", [("image", "c.1.0.0.0"), ("vector", "c.1.0")])
def test_a_changed_bit_anywhere_is_noticed(
    group: zarr.Group, tmp_path: Path, name: str, file: str
) -> None:
    copy = Path(shutil.copytree(directory(group, name), tmp_path / name))
    rows = slice(SHARD, 2 * SHARD)
    expected = group[name][rows]  # type: ignore[index]
    content = (copy / file).read_bytes()
    harmless = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (copy / file).write_bytes(changed)
        try:
            found = ArrayReader(copy)[rows]
        except WamError as error:
            assert re.search(rf"{file}: damaged between rows .*wam convert", str(error))
        else:
            np.testing.assert_array_equal(found, expected)
            harmless += 1
    assert harmless * 20 < len(content)  # bits without a meaning in the headers


@pytest.mark.parametrize("name, file", [("image", "c.3.0.0.0"), ("vector", "c.3.0")])
def test_a_cut_off_or_missing_file_is_named(
    group: zarr.Group, tmp_path: Path, name: str, file: str
) -> None:
    copy = Path(shutil.copytree(directory(group, name), tmp_path / name))
    content = (copy / file).read_bytes()
    for length in (0, 3, 30, len(content) // 2, len(content) - 1):
        (copy / file).write_bytes(content[:length])
        with pytest.raises(WamError, match=f"{file}: damaged between rows"):
            _ = ArrayReader(copy)[:]
    (copy / file).unlink()
    assert len(ArrayReader(copy)[: 3 * SHARD]) == 3 * SHARD
    with pytest.raises(WamError, match=f"{file}: missing"):
        _ = ArrayReader(copy)[3 * SHARD :]


def test_a_file_of_another_store_is_noticed(group: zarr.Group, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(directory(group, "depth"), tmp_path / "depth"))
    shutil.copy(directory(group, "image") / "c.1.0.0.0", copy / "c.1.0.0")
    with pytest.raises(WamError, match=r"depth/c\.1\.0\.0: damaged"):
        _ = ArrayReader(copy)[:]


def test_a_chunk_that_was_never_written_is_noticed(tmp_path: Path) -> None:
    """Zarr itself would fill in zeros."""
    array = zarr.create_array(
        tmp_path / "image",
        shape=(SHARD, 3, 2),
        dtype="uint8",
        chunks=(CHUNK, 3, 2),
        shards=(SHARD, 3, 2),
        **zarr_codecs(3, "uint8", 3),
        **_PLACES,
    )
    array[:CHUNK] = 1
    with pytest.raises(WamError, match=r"c\.0\.0\.0: damaged between rows 4 and 8 .*never written"):
        _ = ArrayReader(tmp_path / "image")[:]


@pytest.mark.parametrize(
    "changes",
    [
        {"compressors": ZstdCodec()},
        {"filters": [TransposeCodec(order=(0, 1))]},
        {"filters": None},
        {"chunks": (CHUNK, 1)},
        {"chunk_key_encoding": {"name": "default", "separator": "/"}},
    ],
)
def test_another_layout_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "shape": (SHARD, 3),
        "dtype": "uint8",
        "chunks": (CHUNK, 3),
        **zarr_codecs(2, "uint8", 3),
        **_PLACES,
    }
    zarr.create_array(tmp_path / "array", **{**options, **changes})
    with pytest.raises(WamError, match=r"array/zarr\.json: found .*expected"):
        ArrayReader(tmp_path / "array")


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps({"node_type": "group"}))
    with pytest.raises(WamError, match=r"zarr\.json: no metadata of an array"):
        ArrayReader(tmp_path)
