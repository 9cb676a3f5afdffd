"""The LeRobot export against the store, by its documented layout and by the library itself."""

import hashlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.calvin.language import ANNOTATIONS, Annotation
from pipeline.lerobot import data
from pipeline.lerobot.features import KEYS, encode, features_of
from pipeline.lerobot.split import LeRobotSplit
from pipeline.lerobot.statistics import count_levels, of_levels, of_vectors
from pipeline.lerobot.write import STAGE
from pipeline.params import Profile
from pipeline.stages import convert, export, index
from pipeline.store.arrays import StoreArray
from pipeline.store.open import Store, open_store
from pipeline.tools import inspect
from wam.errors import WamError

parquet = pytest.importorskip("pyarrow.parquet")

READER = Path(__file__).parents[3] / "tests/compat/read_lerobot.py"
SPLITS = ("training", "validation")
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@pytest.fixture(scope="module")
def profile(raw_root: Path, make_profile: Callable[..., Profile]) -> Profile:
    return make_profile(raw_root)


@pytest.fixture(scope="module")
def exported(
    converted: Layout, profile: Profile, tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("lerobot"))
    shutil.copytree(converted.index, layout.index)
    shutil.copytree(converted.store, layout.store)
    export.run(profile, layout, "lerobot")
    return layout


def stored(store: Store) -> dict[str, np.ndarray]:
    """The arrays of a store by the names that LeRobot knows them by."""
    return {KEYS.get(name, name): store.read(name) for name in store.arrays}


def statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of [T, ...], over frames and pixels."""
    axes = tuple(range(values.ndim - 1)) if values.ndim > 2 else (0,)
    values = values / 255 if values.ndim > 2 else values.reshape(len(values), -1).astype(float)
    return {
        "min": values.min(axes),
        "max": values.max(axes),
        "mean": values.mean(axes),
        "std": values.std(axes),
        "count": np.array([len(values)]),
        **{name: np.quantile(values, share, axes) for name, share in QUANTILES.items()},
    }


def numbers(store: Store) -> dict[str, np.ndarray]:
    """The columns that LeRobot requires, but for the task."""
    lengths = store.episodes[:, 1] - store.episodes[:, 0]
    position = np.concatenate([np.arange(length) for length in lengths])
    return {
        "timestamp": (position / 30).astype(np.float32),
        "frame_index": position,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(store.num_frames),
    }


@pytest.mark.parametrize("split", SPLITS)
def test_every_frame_equals_the_store(exported: Layout, split: str) -> None:
    store = open_store(exported.store / f"{split}.zarr")
    root = exported.lerobot / split
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_frames"]) == (30, store.num_frames)
    assert info["total_episodes"] == len(store.episodes)
    assert info["splits"] == {"train": f"0:{len(store.episodes)}"}
    (path,) = (root / "data").rglob("*.parquet")
    assert path == root / info["data_path"].format(chunk_index=0, file_index=0)
    table = parquet.read_table(path)
    expected = {**stored(store), **numbers(store)}
    assert set(table.column_names) == {*expected, "task_index"} == set(info["features"])
    for key, values in expected.items():
        feature = info["features"][key]
        column = table.column(key)
        if values.ndim == 4:
            assert (feature["dtype"], feature["shape"]) == ("image", [64, 64, 3])
            files = [np.frombuffer(image["bytes"], np.uint8) for image in column.to_pylist()]
            images = [cv2.imdecode(file, cv2.IMREAD_UNCHANGED)[..., ::-1] for file in files]
            np.testing.assert_array_equal(images, values)
        else:
            assert feature["dtype"] == values.dtype
            assert feature["shape"] == list(values.shape[1:] or (1,))
            np.testing.assert_array_equal(np.array(column.to_pylist(), values.dtype), values)


@pytest.mark.parametrize("split", SPLITS)
def test_frames_know_their_task(exported: Layout, split: str) -> None:
    """Both windows of an episode are frames 2 to 33; the drawer's is annotated first."""
    root = exported.lerobot / split
    names = parquet.read_table(root / "meta/tasks.parquet").to_pylist()
    sentences = {row["task_index"]: row["task"] for row in names}
    assert sentences == {0: "play", 1: "push the drawer in", 2: "press the button"}
    (path,) = (root / "data").rglob("*.parquet")
    table = parquet.read_table(path)
    position = table.column("frame_index").to_numpy()
    in_window = (position >= 2) & (position < 34)
    np.testing.assert_array_equal(table.column("task_index").to_numpy(), in_window)
    episodes = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    assert episodes.column("tasks").to_pylist() == [["play", "push the drawer in"]] * len(episodes)


@pytest.mark.parametrize("split", SPLITS)
def test_statistics_equal_those_of_the_store(exported: Layout, split: str) -> None:
    store = open_store(exported.store / f"{split}.zarr")
    meta = exported.lerobot / split / "meta"
    features = json.loads((meta / "info.json").read_text())["features"]
    total = json.loads((meta / "stats.json").read_text())
    assert set(total) == set(features)
    episodes = parquet.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    assert len(episodes) == len(store.episodes)
    for key, values in {**stored(store), **numbers(store)}.items():
        check_statistics(total[key], values)
        for episode, (start, stop) in zip(episodes, store.episodes.tolist(), strict=True):
            prefix = f"stats/{key}/"
            found = {name.removeprefix(prefix): episode[name] for name in episode if prefix in name}
            check_statistics(found, values[start:stop])
            assert (episode["dataset_from_index"], episode["dataset_to_index"]) == (start, stop)
            assert episode["length"] == stop - start
            assert (episode["data/chunk_index"], episode["data/file_index"]) == (0, 0)


def check_statistics(found: dict[str, Any], values: np.ndarray) -> None:
    expected = statistics(values)
    assert set(found) == set(expected)
    for name, value in expected.items():
        shape = (3, 1, 1) if values.ndim == 4 and name != "count" else value.shape
        assert np.shape(found[name]) == shape
        np.testing.assert_allclose(np.ravel(found[name]), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("split", SPLITS)
def test_the_library_reads_it(exported: Layout, split: str, tmp_path: Path) -> None:
    """In another process: the library allows other versions of torch than this project."""
    venv = os.environ.get("LEROBOT_VENV")
    if venv is None:
        pytest.skip("needs LeRobot's library: make test-lerobot")
    subprocess.run(
        [Path(venv) / "bin/python", READER, exported.lerobot / split, tmp_path / "read.npz"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    store = open_store(exported.store / f"{split}.zarr")
    expected = {**stored(store), **numbers(store)}
    with np.load(tmp_path / "read.npz", allow_pickle=False) as file:
        found = dict(file)
    assert found.pop("num_episodes") == len(store.episodes)
    task = found.pop("task")
    position = expected["frame_index"]
    in_window = (position >= 2) & (position < 34)
    np.testing.assert_array_equal(found.pop("task_index"), in_window)
    np.testing.assert_array_equal(task, np.where(in_window, "push the drawer in", "play"))
    assert set(found) == set(expected)
    for key, values in expected.items():
        if values.ndim == 4:
            values = (values / np.float32(255)).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found[key].reshape(values.shape), values, rtol=1e-6)


def test_it_is_described_and_verified(exported: Layout) -> None:
    found = inspect.describe(exported.lerobot, verify=True)
    assert found.kind == "LeRobot data sets"
    assert found.is_usable
    assert found.facts["format"] == "LeRobotDataset v3.0"
    assert found.facts["training"].startswith("120 frames in 3 episodes, 3 tasks, 1 data files")


def test_an_interrupted_export_goes_on_and_gives_the_same_bytes(
    exported: Layout, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "FILE_MB", 0.5)  # a file for every episode
    layout = Layout(tmp_path)
    shutil.copytree(exported.index, layout.index)
    shutil.copytree(exported.store, layout.store)
    export.run(profile, layout, "lerobot", tmp_path / "uninterrupted")
    shard = layout.store / "validation.zarr/rgb_static/c.1.0.0.0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WamError, match=r"c\.1\.0\.0\.0: damaged"):
        export.run(profile, layout, "lerobot")
    shard.write_bytes(content)
    assert not layout.lerobot.exists()
    partial = sorted((tmp_path / "lerobot.partial").rglob("file-*.parquet"))
    done = {path.name: path.stat().st_mtime_ns for path in partial if "training/data" in str(path)}
    assert list(done) == ["file-000.parquet", "file-001.parquet", "file-002.parquet"]
    export.run(profile, layout, "lerobot")
    for name, written in done.items():
        path = layout.lerobot / "training/data/chunk-000" / name
        assert path.stat().st_mtime_ns == written
    assert _digests(layout.lerobot) == _digests(tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    ("file_mb", "expected"),
    [
        (100, [range(3)]),
        (1, [range(2), range(2, 3)]),
        (0.001, [range(1), range(1, 2), range(2, 3)]),
    ],
)
def test_files_hold_whole_episodes(
    converted: Layout, monkeypatch: pytest.MonkeyPatch, file_mb: float, expected: list[range]
) -> None:
    """Two episodes of 40 frames are estimated to take 0.82 MB."""
    monkeypatch.setattr(data, "FILE_MB", file_mb)
    store = open_store(converted.store / "training.zarr")
    files = data.plan(LeRobotSplit.of(store, []))
    assert [file.episodes for file in files] == expected
    assert files[0].path == "data/chunk-000/file-000.parquet"
    assert data.DataFile(1001, range(1)).path == "data/chunk-001/file-001.parquet"


def test_overlapping_windows_and_dropped_episodes(converted: Layout) -> None:
    """Episodes have the frame ids 100 to 139, 140 to 179 and 200 to 239."""
    store = open_store(converted.store / "training.zarr")
    annotations = [
        Annotation("b", "ends last", 105, 130),
        Annotation("a", "ends first", 100, 110),
        Annotation("c", "second of its end", 108, 130),
        Annotation("d", "crosses an episode", 130, 150),
        Annotation("e", "is not stored", 195, 210),
    ]
    split = LeRobotSplit.of(store, annotations)
    assert split.tasks == ["play", "ends last", "ends first", "second of its end"]
    np.testing.assert_array_equal(split.task_index[:40], [2] * 10 + [1] * 20 + [0] * 10)
    assert not split.task_index[40:].any()
    assert LeRobotSplit.of(store, []).tasks == ["play"]


def test_several_images_in_one_array_become_several_features() -> None:
    arrays = {
        "rgb_tactile": StoreArray("uint8", (16, 12, 6), ""),
        "depth_static": StoreArray("float32", (20, 20), ""),
    }
    left, right, depth = features_of(arrays)
    assert left.key == "observation.images.rgb_tactile_0"
    assert depth.info()["info"] == {"is_depth_map": True, "depth_unit": "m"}
    values = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 6), np.uint8)
    for feature, expected in ((left, values[..., :3]), (right, values[..., 3:])):
        rows = feature.rows(values)
        np.testing.assert_array_equal(rows, expected)
        file = np.frombuffer(encode(feature, rows[0]), np.uint8)
        image = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)[..., ::-1]
        np.testing.assert_array_equal(image, expected[0])


def test_depth_is_stored_without_loss_and_counted_by_the_millimetre() -> None:
    from PIL import Image

    (feature,) = features_of({"depth_static": StoreArray("float32", (20, 30), "")})
    values = np.random.default_rng(0).uniform(0.2, 4, (50, 20, 30)).astype(np.float32)
    rows = feature.rows(values)
    image = Image.open(io.BytesIO(encode(feature, rows[0])))
    assert image.mode == "F"
    np.testing.assert_array_equal(np.asarray(image), values[0])
    levels = sum(count_levels(feature, row) for row in rows)
    found = of_levels(feature, levels, len(rows))
    expected = of_vectors(values.reshape(-1, 1))
    for name in ("min", "max", "mean", "std", *QUANTILES):
        assert np.shape(found[name]) == (1, 1, 1)
        np.testing.assert_allclose(np.ravel(found[name]), expected[name], atol=1e-3)


def test_an_array_without_a_place_is_named() -> None:
    with pytest.raises(WamError, match=r"odd: rows of float64 \(4, 4\) have no place"):
        features_of({"odd": StoreArray("float64", (4, 4), "")})
    with pytest.raises(WamError, match="timestamp: LeRobot's 'timestamp' is something else"):
        features_of({"timestamp": StoreArray("float64", (), "")})


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_raw_frames_are_not_needed(
    exported: Layout, own_raw: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    layout, profile = Layout(tmp_path / "data"), make_profile(own_raw)
    index.run(profile, layout)
    convert.run(profile, layout)
    shutil.rmtree(own_raw)
    export.run(profile, layout, "lerobot")
    for split in SPLITS:
        tasks = Path(split) / "meta" / "tasks.parquet"
        assert (layout.lerobot / tasks).read_bytes() == (exported.lerobot / tasks).read_bytes()


def test_without_annotations_every_frame_is_play(
    own_raw: Path,
    make_profile: Callable[..., Profile],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (own_raw / "validation" / ANNOTATIONS).unlink()
    layout, profile = Layout(tmp_path / "data"), make_profile(own_raw, tasks=())
    index.run(profile, layout)
    convert.run(profile, layout)
    export.run(profile, layout, "lerobot")
    assert "validation: no language annotations; every frame is play" in capsys.readouterr().out
    manifest = manifests.read_manifest(layout.lerobot, STAGE)
    assert [manifest["splits"][split]["num_tasks"] for split in SPLITS] == [3, 1]
