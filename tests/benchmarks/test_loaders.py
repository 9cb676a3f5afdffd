"""Whoever takes part in the benchmark of the loaders reads the same frames."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import engines
import loaders as benchmark
from contestants import CONTESTANTS, Data
from formats import LIBRARIES, has
from line import Line, line
from pipeline.store.open import Store
from pipeline.webdataset.read import open_split
from readers import OwnShards, Starts, WithTorch
from tests.pipeline.conftest import make_raw

LENGTH = 8
INSTALLED = [name for name, contestant in CONTESTANTS.items() if has(contestant.needs)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """100 frames in three episodes, the last one cut."""
    root = tmp_path_factory.mktemp("loaders")
    make_raw(root / "raw")
    found = Data(root / "data")
    benchmark.prepare(found, root / "raw", 120)
    return found


@pytest.fixture(scope="module")
def served(data: Data) -> Iterator[Line]:
    with line(data.root, float("inf")) as found:
        yield found


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BATCH_FRAMES", 5 * LENGTH)


def drawn(store: Store, *, shuffled: bool = True) -> Starts:
    return benchmark.starts(store, LENGTH, shuffled=shuffled)


@pytest.mark.parametrize("name", INSTALLED)
def test_every_engine_reads_the_rows_of_the_store(data: Data, name: str) -> None:
    contestant = CONTESTANTS[name]
    reader = contestant.reader(data, 0)
    found = benchmark.check(data, reader, drawn(data.store)[:3], LENGTH, contestant)
    assert ("psnr_db" in found) == (not contestant.lossless)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["store", "npz", "webdataset"])
def test_workers_read_the_same(data: Data, name: str) -> None:
    reader = CONTESTANTS[name].reader(data, 2)
    benchmark.check(data, reader, drawn(data.store)[:4], LENGTH, CONTESTANTS[name])


def test_other_rows_are_noticed(data: Data) -> None:
    class Shifted:
        def batches(self, starts: Starts, length: int) -> Iterator[engines.Windows]:
            engine = engines.Zarr(data.store.path, LIBRARIES["zarr"], 1)
            return WithTorch(engine, 0).batches([rows + 1 for rows in starts], length)

    with pytest.raises(AssertionError):
        benchmark.check(data, Shifted(), [np.array([3, 50])], LENGTH, CONTESTANTS["zarr"])


def test_images_are_compared_whatever_their_layout() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_array_equal(benchmark.as_uint8(floats.numpy()), images)
    np.testing.assert_array_equal(benchmark.as_uint8(images), images)


def test_windows_stay_inside_episodes(data: Data) -> None:
    store = data.store
    for shuffled in (True, False):
        rows = np.concatenate(drawn(store, shuffled=shuffled))
        last = rows + LENGTH - 1
        assert (store.episode_of_rows(rows) == store.episode_of_rows(last)).all()
    assert drawn(store, shuffled=False)[0].tolist() == [0, 8, 16, 24, 32]


def test_an_engine_that_is_not_installed_is_reported(data: Data) -> None:
    absent = replace(CONTESTANTS["npz"], needs="no_such_package.Engine", install="no-such")
    assert benchmark.summary(data, "absent", absent, {}) == "not installed: pip install no-such"
    present = benchmark.summary(data, "npz", CONTESTANTS["npz"], {"1_core": {"npz": {"50": 7}}})
    assert isinstance(present, dict)
    assert (present["lossless"], present["1_core"]) == (True, {"50": 7})
    assert present["bytes_per_frame"] > 1000


def test_all_uses_are_timed_and_compared(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LENGTHS", (LENGTH,))
    chosen = {name: CONTESTANTS[name] for name in ("store", "shards", "npz")}
    result = benchmark.reading_here(data, 1, 1, 0.01, chosen)
    assert set(result["store"]) == {"8_random", "8_in_order"}
    assert set(result["shards"]) == {"8_random"}, "tars cannot be read in the store's order"
    assert set(result["ratios"]["8_random"]) == {"store", "shards"}
    assert set(result["ratios"]["8_random"]["store"]) == {"npz"}


def test_a_line_serves_files_and_parts_of_them(data: Data, served: Line) -> None:
    name = "store/training.zarr/zarr.json"
    content = (data.root / name).read_bytes()
    before = served.sent.value
    assert _get(served, name) == content
    assert _get(served, name, "bytes=10-19") == content[10:20]
    assert _get(served, name, "bytes=10-") == content[10:]
    assert _get(served, name, "bytes=-7") == content[-7:]
    assert served.sent.value - before == 2 * len(content) + 7
    for absent in ("store/no.json", "../raw/training/ep_start_end_ids.npy"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(served, absent)


def test_what_comes_over_a_line_is_the_same(data: Data, served: Line) -> None:
    split = open_split(f"{served.url}/shards", "training")
    windows = drawn(data.store)[:3]
    benchmark.check(data, OwnShards(split, 0), windows, LENGTH, CONTESTANTS["shards"])
    remote = engines.Zarr(f"{served.url}/store/training.zarr", LIBRARIES["zarr"], 1)
    benchmark.check(data, WithTorch(remote, 0), windows, LENGTH, CONTESTANTS["zarr"])


def _get(at: Line, name: str, part: str | None = None) -> bytes:
    headers = {} if part is None else {"Range": part}
    request = urllib.request.Request(f"{at.url}/{name}", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_shares_of_disk_and_line_are_told(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LENGTHS", (LENGTH,))
    monkeypatch.setattr(benchmark, "LINES", {"slow": 1e6, "no_limit": float("inf")})
    found = benchmark.remote(data, 1, 0.01)
    assert set(found) == {"shards", "store_by_zarr"}
    for places in found.values():
        assert set(places) == {"local", "slow", "no_limit"}
        assert set(places["slow"]) == {"frames_per_s", "of_local", "of_line"}
        assert 0 < places["slow"]["of_line"] <= 1.2
        assert "of_line" not in places["no_limit"]
