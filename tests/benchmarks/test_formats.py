"""Whoever takes part in the benchmark of the format does the same work."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import formats as benchmark
from pipeline.calvin.fields import CAMERAS
from pipeline.params import load_profile
from pipeline.store.arrays import ROW_ARRAYS, StoreArray
from pipeline.store.group import create_arrays
from pipeline.store.open import Store
from turns import PARAMS

FRAMES = 35
INSTALLED = [name for name, pipeline in benchmark.LIBRARIES.items() if benchmark.has(pipeline)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Noise in the store's layout, written by Zarr; the last shard and its last chunk are cut."""
    path = tmp_path_factory.mktemp("store") / "training.zarr"
    settings = load_profile("ci", PARAMS).convert
    settings = replace(settings, shard_frames=20, chunk_frames=10)
    arrays = {camera: StoreArray("uint8", (8, 8, 3), "") for camera in CAMERAS} | ROW_ARRAYS
    create_arrays(path, arrays, FRAMES, settings)
    group = zarr.open_group(path, mode="r+")
    rng = np.random.default_rng(0)
    for name, array in arrays.items():
        values = rng.integers(0, 256, (FRAMES, *array.shape)).astype(array.dtype)
        group[name][:] = values  # type: ignore[index]
    attrs = {
        "num_frames": FRAMES,
        "arrays": {name: asdict(array) for name, array in arrays.items()},
        "parameters": asdict(settings),
    }
    return Store(path, attrs)


def written(store: Store, copy: Path, write: benchmark.WriteShard) -> Path:
    with ThreadPoolExecutor(2) as pool:
        assert benchmark.write_shards(store, list(store.arrays), write, pool) == FRAMES
    assert len(list(copy.rglob("c.*"))) == 2 * len(store.arrays)
    return copy


def test_our_files_are_the_stores(store: Store, tmp_path: Path) -> None:
    copy = benchmark.metadata_copy(store.path, tmp_path / "copy")
    written(store, copy, benchmark.own_writer(store, copy))
    assert benchmark.same_files(store.path, copy)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_librarys_files_hold_the_same(store: Store, tmp_path: Path, name: str) -> None:
    pipeline = benchmark.LIBRARIES[name]
    copy = benchmark.metadata_copy(store.path, tmp_path / "copy")
    written(store, copy, benchmark.library_writer(store, copy, pipeline, 2))
    found = zarr.open_group(copy, mode="r")
    for array in store.arrays:
        np.testing.assert_array_equal(found[array][:], store.read(array))  # type: ignore[index]
    assert benchmark.same_files(store.path, copy) or name == "zarrs"


@pytest.mark.parametrize("name", INSTALLED)
def test_a_library_reads_the_same(store: Store, name: str) -> None:
    copy = benchmark.library_copier(store.path, benchmark.LIBRARIES[name], 2)
    for array in store.arrays:
        expected = store.read(array, 5, 33)
        target = np.zeros_like(expected)
        copy(array, 5, target)
        np.testing.assert_array_equal(target, expected)


def test_a_library_that_is_not_there_is_told_from_one_that_is() -> None:
    assert benchmark.has(benchmark.LIBRARIES["zarr"])
    assert not benchmark.has("no_such_package.Pipeline")
    assert not benchmark.has("zarr.core.codec_pipeline.NoSuchPipeline")
