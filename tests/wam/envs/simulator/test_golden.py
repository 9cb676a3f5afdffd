"""Both sources of scenes against traces and images of the official simulator."""

from pathlib import Path

import numpy as np
import pytest

from wam.config import TASKS
from wam.envs.replay import Trace, load_trace, replay, tcp_distance
from wam.envs.simulator.play_table import PlayTableEnv

RANDOM = [f"random_D_{number}" for number in range(4)]
TRACES = ("free_D", *RANDOM, *(f"task_D_{task}" for task in TASKS))


def pair(golden: Path, name: str, assets: Path | None = None) -> tuple[Trace, Trace]:
    """The recorded and the repeated trace."""
    recorded = load_trace(golden / f"{name}.npz")
    return recorded, replay(recorded, assets)


@pytest.mark.parametrize("name", TRACES)
def test_official_assets_repeat_the_trace_exactly(golden: Path, assets: Path, name: str) -> None:
    recorded, repeated = pair(golden, name, assets)
    assert np.array_equal(recorded.robot_obs, repeated.robot_obs)
    assert np.array_equal(recorded.scene_obs, repeated.scene_obs)
    assert recorded.success_step == repeated.success_step


@pytest.mark.parametrize("state", ["closed_off", "open_on"])
def test_official_assets_render_the_same_images(golden: Path, assets: Path, state: str) -> None:
    recorded = np.load(golden / f"image_D_{state}_tiny.npz")
    env = PlayTableEnv("D", assets=assets, renderer="tiny", depth=True)
    try:
        options = {name: recorded[f"reset_{name}"] for name in ("robot_obs", "scene_obs")}
        observation, _ = env.reset(options=options)
        assert env.observation_space.contains(observation)
    finally:
        env.close()
    for camera in ("rgb_static", "rgb_gripper", "depth_static", "depth_gripper"):
        assert np.array_equal(observation[camera], recorded[camera]), camera


def test_embedded_free_motion_matches(golden: Path) -> None:
    recorded, repeated = pair(golden, "free_D")
    assert np.abs(recorded.robot_obs - repeated.robot_obs).max() < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_embedded_task_traces_match(golden: Path, task: str) -> None:
    recorded, repeated = pair(golden, f"task_D_{task}")
    assert repeated.success_step is not None
    assert recorded.success_step is not None
    assert abs(repeated.success_step - recorded.success_step) <= 2
    assert tcp_distance(recorded, repeated).max() < 0.005


@pytest.mark.parametrize("state", ["closed_off", "open_on"])
def test_embedded_images_show_the_same_scene(golden: Path, state: str) -> None:
    recorded = np.load(golden / f"image_D_{state}_tiny.npz")
    env = PlayTableEnv("D", renderer="tiny")
    try:
        options = {name: recorded[f"reset_{name}"] for name in ("robot_obs", "scene_obs")}
        observation, _ = env.reset(options=options)
    finally:
        env.close()
    for camera, most in (("rgb_static", 20.0), ("rgb_gripper", 25.0)):
        ours, theirs = observation[camera].astype(float), recorded[camera].astype(float)
        assert ours.shape == theirs.shape
        # Textures and the arm's surface differ; outlines and colours do not.
        assert np.abs(ours - theirs).mean() < most
        # Saturated colours mark blocks and lights: they must lie in the same pixels.
        masks = [np.ptp(image, axis=2) > 150 for image in (ours, theirs)]
        overlap = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert overlap > 0.9
