"""The store without this package: Zarr, xarray and Dask find in it what our reader finds."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray
import zarr

from pipeline.artifacts.layout import Layout
from pipeline.params import Profile
from pipeline.stages import convert, index
from pipeline.store.arrays import EPISODE_SCENE, EPISODES
from pipeline.store.open import Store, open_store
from wam.errors import WamError

DOCUMENT = Path(__file__).parents[3] / "docs" / "data-format.md"
# A reader that has to guess or that goes the long way says so.
pytestmark = pytest.mark.filterwarnings("error")

OPENERS: dict[str, Callable[[Path], Any]] = {
    "open_zarr": xarray.open_zarr,
    "open_dataset": lambda path: xarray.open_dataset(path, engine="zarr"),
    "consolidated": lambda path: xarray.open_zarr(path, consolidated=True),
    "array by array": lambda path: xarray.open_zarr(path, consolidated=False),
}


@pytest.fixture
def everything(own_raw: Path, make_profile: Callable[..., Profile], tmp_path: Path) -> Store:
    """Cameras of different sizes, depth, and further arrays."""
    for path in own_raw.glob("*/episode_*.npz"):
        with np.load(path) as archive:
            frame = dict(archive)
        frame |= {
            "depth_static": np.full((64, 64), 3.5, np.float32),
            "depth_gripper": np.full((72, 80), 0.5, np.float32),
            "rgb_tactile": np.full((16, 12, 6), 7, np.uint8),
            "force": np.arange(3, dtype=np.int32),
            "touched": np.array(True),
        }
        np.savez_compressed(path, allow_pickle=False, **frame)
    profile = make_profile(own_raw)
    settings = replace(
        profile.convert,
        image_size=None,
        depth=True,
        extra_keys=("rgb_tactile", "force", "touched"),
    )
    profile = replace(profile, convert=settings)
    layout = Layout(tmp_path / "data")
    index.run(profile, layout)
    convert.run(profile, layout)
    return open_store(layout.store / "training.zarr")


@pytest.fixture
def store(converted: Layout) -> Store:
    return open_store(converted.store / "training.zarr")


@pytest.mark.parametrize("opener", OPENERS)
def test_xarray_reads_the_same(store: Store, opener: str) -> None:
    dataset = OPENERS[opener](store.path)
    assert set(dataset.variables) == {*store.arrays, EPISODES, EPISODE_SCENE}
    for name, variable in dataset.variables.items():
        expected = store.read(str(name))
        assert variable.dtype == expected.dtype
        np.testing.assert_array_equal(variable.to_numpy(), expected)
    assert dataset.attrs == store.attrs
    assert dict(dataset.sizes) == {
        "frame": 120,
        **dict.fromkeys(("static_height", "static_width", "gripper_height", "gripper_width"), 64),
        "channel": 3,
        "actions_element": 7,
        "rel_actions_element": 7,
        "robot_obs_element": 15,
        "scene_obs_element": 24,
        "proprio_element": 18,
        "episode": 3,
        "start_stop": 2,
    }


def test_xarray_reads_cameras_of_any_size_depth_and_further_arrays(everything: Store) -> None:
    dataset = xarray.open_zarr(everything.path)
    for name in everything.arrays:
        np.testing.assert_array_equal(dataset[name].to_numpy(), everything.read(name))
    assert dataset.rgb_gripper.dims == ("frame", "gripper_height", "gripper_width", "channel")
    assert dataset.depth_gripper.dims == ("frame", "gripper_height", "gripper_width")
    assert dataset.rgb_tactile.dims == ("frame", *(f"rgb_tactile_axis_{n}" for n in (1, 2, 3)))
    assert (dataset.force.dims, dataset.touched.dims) == (("frame", "force_element"), ("frame",))
    near = dataset.rgb_static.where(dataset.depth_static < 1, 0)
    assert near.shape == dataset.rgb_static.shape, "image and depth lie on the same axes"


def test_dask_reads_the_same(store: Store) -> None:
    for name in store.arrays:
        array = dask.array.from_zarr(store.path, component=name)
        np.testing.assert_array_equal(array.compute(scheduler="sync"), store.read(name))


def test_the_group_repeats_the_metadata_of_its_arrays(store: Store) -> None:
    group = zarr.open_consolidated(store.path)
    assert set(group.array_keys()) == {*store.arrays, EPISODES, EPISODE_SCENE}
    root = json.loads((store.path / "zarr.json").read_text())
    consolidated = root["consolidated_metadata"]
    assert consolidated["must_understand"] is False
    assert consolidated["metadata"] == {
        path.parent.name: json.loads(path.read_text()) for path in store.path.glob("*/zarr.json")
    }


def test_a_group_that_an_earlier_run_had_finished_is_finished_anew(
    raw_root: Path, make_profile: Callable[..., Profile], converted: Layout, tmp_path: Path
) -> None:
    """Killed between the two splits: the first has its attributes, and arrays of that run."""
    layout = Layout(tmp_path)
    shutil.copytree(converted.index, layout.index)
    finish, finished = convert.finish_group, []

    def killed(path: Path, *rest: Any) -> None:
        if finished:
            raise KeyboardInterrupt
        finish(path, *rest)
        finished.append(path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "finish_group", killed)
        convert.run(make_profile(raw_root), layout)
    convert.run(make_profile(raw_root), layout)
    for name in ("training.zarr/zarr.json", "validation.zarr/zarr.json", "manifest.json"):
        assert (layout.store / name).read_bytes() == (converted.store / name).read_bytes()


def test_depth_of_another_size_than_its_camera_is_refused(
    own_raw: Path, make_profile: Callable[..., Profile], tmp_path: Path
) -> None:
    for path in own_raw.glob("*/episode_*.npz"):
        with np.load(path) as archive:
            frame = dict(archive)
        frame |= {"depth_static": np.ones((65, 64), np.float32)}
        np.savez_compressed(path, allow_pickle=False, **frame)
    profile = make_profile(own_raw)
    settings = replace(profile.convert, image_size=None, depth=True, cameras=("rgb_static",))
    layout = Layout(tmp_path / "data")
    index.run(profile, layout)
    with pytest.raises(WamError, match=r"convert\.depth: depth_static .*\(65, 64\).*image_size"):
        convert.run(replace(profile, convert=settings), layout)


def test_the_example_in_the_documentation_runs(converted: Layout) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(example.replace("data/demo/store", str(converted.store)), found)
    store = open_store(converted.store / "training.zarr")
    np.testing.assert_array_equal(found["window"], store.read("rgb_static", 0, 50))
    expected = store.read("rel_actions").mean(axis=0)
    np.testing.assert_allclose(found["mean_action"], expected, rtol=1e-5)
