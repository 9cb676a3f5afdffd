"""What the section ``convert`` can ask for: images, depth, further arrays, scenes, frame ranges."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr

from pipeline.artifacts import manifests
from pipeline.artifacts.layout import Layout
from pipeline.batches.from_store import store_frames
from pipeline.calvin import language, listing, metadata, on_disk
from pipeline.params import Profile
from pipeline.stages import convert, index
from pipeline.store.open import Store, open_store
from wam.errors import WamError

MakeProfile = Callable[..., Profile]
FurtherArrays = Callable[[int], dict[str, np.ndarray]]


def add_arrays(root: Path, further: FurtherArrays) -> None:
    """Give every frame below ``root`` the arrays that ``further`` makes of its id."""
    for path in root.glob("*/episode_*.npz"):
        with np.load(path) as archive:
            frame = dict(archive)
        frame |= further(int(path.stem[8:]))
        np.savez_compressed(path, allow_pickle=False, **frame)


def depth_and_touch(frame_id: int) -> dict[str, np.ndarray]:
    ramp = np.arange(72 * 80, dtype=np.float32).reshape(72, 80) / 1000
    return {
        "depth_static": np.full((64, 64), 3.5 + frame_id / 1000, np.float32),
        "depth_gripper": ramp + np.float32(frame_id % 7),
        "rgb_tactile": np.full((16, 12, 6), frame_id % 251, np.uint8),
        "force": np.array([frame_id, -1, 2], np.int32),
        "touched": np.array(frame_id % 3 == 0),
        "heat": np.full((2, 3), frame_id, ">f2"),
    }


@pytest.fixture
def rich_raw(own_raw: Path) -> Path:
    """The tiny data set with depth and touch."""
    add_arrays(own_raw, depth_and_touch)
    return own_raw


def run(profile: Profile, root: Path, **settings: object) -> Layout:
    """Index and convert with some settings of ``convert`` changed."""
    profile = replace(profile, convert=replace(profile.convert, **settings))  # type: ignore[arg-type]
    layout = Layout(root)
    index.run(profile, layout)
    convert.run(profile, layout)
    return layout


def training(layout: Layout) -> Store:
    return open_store(layout.store / "training.zarr")


def test_original_images_depth_and_further_arrays_are_stored_as_they_are(
    rich_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    layout = run(
        make_profile(rich_raw),
        tmp_path / "data",
        image_size=None,
        depth=True,
        extra_keys=("rgb_tactile", "force", "touched", "heat"),
    )
    store = training(layout)
    assert store.arrays["rgb_gripper"].shape == (72, 80, 3)
    assert store.arrays["depth_gripper"].dtype == "float32"
    names = ["rgb_static", "rgb_gripper", *depth_and_touch(0)]
    stored = {name: store.read(name) for name in names}
    for row, frame_id in enumerate(store.frame_ids.tolist()):
        frame = on_disk.read_frame(on_disk.frame_path(rich_raw / "training", frame_id), names)
        for name in names:
            assert stored[name].dtype == frame[name].dtype.newbyteorder("=")
            np.testing.assert_array_equal(stored[name][row], frame[name])


def test_depth_is_resized_with_the_images(
    rich_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    store = training(run(make_profile(rich_raw), tmp_path / "data", image_size=64, depth=True))
    frame = depth_and_touch(100)
    resized = cv2.resize(frame["depth_gripper"], (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(store.read("depth_gripper", 0, 1)[0], resized)
    assert store.arrays["rgb_gripper"].shape == (64, 64, 3)
    # Area interpolation keeps the mean.
    np.testing.assert_allclose(resized.mean(), frame["depth_gripper"].mean(), rtol=1e-4)


def test_one_camera_is_enough_but_not_for_training(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    for path in own_raw.glob("*/episode_*.npz"):
        with np.load(path) as archive:
            frame = {name: archive[name] for name in archive.files if name != "rgb_gripper"}
        np.savez_compressed(path, allow_pickle=False, **frame)
    layout = run(make_profile(own_raw), tmp_path / "data", cameras=("rgb_static",))
    store = training(layout)
    assert "rgb_gripper" not in store.arrays
    assert not (store.path / "rgb_gripper").exists()
    with pytest.raises(WamError, match=r"no array 'rgb_gripper'; .*convert\.cameras"):
        store_frames(store)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": True}, "convert.depth is set, but the frames have no depth_static; found act"),
        (
            {"extra_keys": ("sound",)},
            "convert.extra_keys names sound, but the frames have no sound",
        ),
        (
            {"image_size": 65},
            "image_size=65: rgb_static was recorded with 64x64 pixels; images are",
        ),
        ({"extra_keys": ("words",)}, "words is <U3; only numbers can be stored"),
    ],
)
def test_what_the_frames_do_not_have_is_named(
    own_raw: Path,
    make_profile: MakeProfile,
    tmp_path: Path,
    settings: dict[str, object],
    message: str,
) -> None:
    add_arrays(own_raw, lambda _: {"words": np.array(["yes", "no"])})
    with pytest.raises(WamError, match=message):
        run(make_profile(own_raw), tmp_path / "data", **settings)
    assert not (tmp_path / "data" / "store").exists()


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (
            {"rgb_tactile": np.zeros((16, 11, 6), np.uint8)},
            {"extra_keys": ("rgb_tactile",)},
            r"rgb_tactile has shape \(16, 11, 6\); other frames have \(16, 12, 6\)",
        ),
        (
            {"force": np.zeros(3, np.int64)},
            {"extra_keys": ("force",)},
            "force is int64; expected int32",
        ),
        (
            {"depth_gripper": np.full((72, 80), np.nan, np.float32)},
            {"depth": True},
            "depth_gripper has a value that is not finite or negative",
        ),
        (
            {"depth_static": np.zeros((64, 64))},
            {"depth": True},
            "depth_static is float64; expected float32",
        ),
    ],
)
def test_a_frame_with_another_array_is_named(
    rich_raw: Path,
    make_profile: MakeProfile,
    tmp_path: Path,
    array: dict[str, np.ndarray],
    settings: dict[str, object],
    message: str,
) -> None:
    path = on_disk.frame_path(rich_raw / "training", 177)
    with np.load(path) as archive:
        frame = dict(archive) | array
    np.savez_compressed(path, allow_pickle=False, **frame)
    with pytest.raises(WamError, match=rf"episode_0000177.npz: {message}"):
        run(make_profile(rich_raw), tmp_path / "data", **settings)


def test_original_sizes_must_be_those_of_both_splits(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    for path in (own_raw / "validation").glob("episode_*.npz"):
        with np.load(path) as archive:
            frame = dict(archive) | {"rgb_gripper": np.zeros((84, 84, 3), np.uint8)}
        np.savez_compressed(path, allow_pickle=False, **frame)
    with pytest.raises(WamError, match=r"rgb_gripper: uint8 \(72, 80, 3\) in training.*\(84, 84"):
        run(make_profile(own_raw), tmp_path / "data", image_size=None)
    run(make_profile(own_raw), tmp_path / "data", image_size=64)


def test_frame_ranges_cut_episodes(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    ranges = {"training": ((110, 149), (205, 205), (239, 500))}
    layout = run(make_profile(raw_root, tasks=()), tmp_path / "data", frames=ranges)
    store = training(layout)
    np.testing.assert_array_equal(store.frame_ids, [*range(110, 150), 205, 239])
    np.testing.assert_array_equal(store.episodes, [[0, 30], [30, 40], [40, 41], [41, 42]])
    assert open_store(layout.store / "validation.zarr").num_frames == 80
    with pytest.raises(WamError, match=r"convert\.frames\.training: no chosen episode"):
        run(make_profile(raw_root), tmp_path / "none", frames={"training": ((180, 199),)})


def test_frames_outside_the_ranges_may_be_missing(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    on_disk.frame_path(own_raw / "training", 150).unlink()
    layout = run(make_profile(own_raw), tmp_path / "data", frames={"training": ((100, 149),)})
    assert training(layout).num_frames == 50


def test_scenes_are_recorded_and_chosen(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    ranges = {
        "calvin_scene_B": (0, 139),
        "calvin_scene_A": (140, 199),
        "calvin_scene_C": (200, 299),
    }
    metadata.write_scene_info(own_raw / "training", ranges)
    layout = run(make_profile(own_raw), tmp_path / "data")
    store = training(layout)
    assert store.attrs["scene"] is None
    assert store.episode_scenes == ["B", "A", "C"]
    assert store.attrs["block_order"] == {
        "A": ["pink", "blue", "red"],
        "B": ["red", "blue", "pink"],
        "C": ["blue", "red", "pink"],
    }
    validation = open_store(layout.store / "validation.zarr")
    assert (validation.attrs["scene"], validation.episode_scenes) == ("D", ["D", "D"])

    chosen = run(make_profile(own_raw), tmp_path / "chosen", scenes=("A", "C"))
    np.testing.assert_array_equal(training(chosen).frame_ids, [*range(140, 180), *range(200, 240)])
    assert training(chosen).episode_scenes == ["A", "C"]
    assert open_store(chosen.store / "validation.zarr").num_frames == 80
    with pytest.raises(WamError, match=r"no episode of D in .*training; its frames are from A, B"):
        run(make_profile(own_raw), tmp_path / "none", scenes=("D",))
    metadata.write_scene_info(own_raw / "training", ranges | {"calvin_scene_C": (201, 299)})
    with pytest.raises(WamError, match="no scene for the episode of frames 200 to 239"):
        run(make_profile(own_raw), tmp_path / "unknown", scenes=("A",))


@pytest.mark.parametrize("shard_frames", [8, 32, 200])
def test_statistics_are_those_of_all_training_frames(
    raw_root: Path, make_profile: MakeProfile, tmp_path: Path, shard_frames: int
) -> None:
    layout = run(make_profile(raw_root), tmp_path, shard_frames=shard_frames)
    store = training(layout)
    validation = open_store(layout.store / "validation.zarr")
    assert validation.attrs["statistics"] == store.attrs["statistics"]
    for name in ("actions", "rel_actions", "robot_obs", "scene_obs", "proprio"):
        rows = store.read(name).astype(np.float64)
        found = store.attrs["statistics"][name]
        assert found["count"] == store.num_frames
        assert found["min"] == rows.min(0).tolist()
        assert found["max"] == rows.max(0).tolist()
        np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found["std"], rows.std(0), rtol=0, atol=1e-12)


def test_plain_zarr_tells_where_the_store_is_from(
    raw_root: Path, converted: Layout, make_profile: MakeProfile
) -> None:
    group = zarr.open(converted.store / "training.zarr", mode="r")
    assert group["rgb_static"][37:41].shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(group["episode_scene"][:], [0, 0, 0])
    attrs = dict(group.attrs)
    assert attrs["scenes"] == ["D"]
    assert attrs["source"] == str(raw_root / "training")
    assert attrs["source_digest"] == listing.load_index(converted.index).splits["training"].digest
    assert attrs["parameters"]["shard_frames"] == 32
    assert "workers" not in attrs["parameters"]
    assert {"wam", "numpy", "zarr"} <= attrs["versions"].keys()
    for name, array in attrs["arrays"].items():
        assert group[name].dtype == np.dtype(array["dtype"])
        assert list(group[name].shape[1:]) == array["shape"]


def test_findings_lie_beside_the_store(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    directory = own_raw / "training"
    shutil.copy(on_disk.frame_path(directory, 100), on_disk.frame_path(directory, 99))
    (own_raw / "validation" / language.ANNOTATIONS).unlink()
    layout = run(make_profile(own_raw, tasks=()), tmp_path / "data")
    findings = manifests.read_json(layout.store / convert.FINDINGS)
    assert findings["damaged_episodes"] == []
    by_check = {warning["check"]: warning for warning in findings["warnings"]}
    assert by_check["stray-frames"]["file"] == "training/episode_0000099.npz"
    assert by_check["annotations-missing"]["file"].startswith("validation/")
