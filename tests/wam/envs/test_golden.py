"""The embedded scene against traces and images of the official simulator."""

from pathlib import Path

import numpy as np
import pytest

from wam.config import TASKS
from wam.envs import oracle
from wam.envs.play_table import PlayTableEnv


def replay(env: PlayTableEnv, trace: np.lib.npyio.NpzFile) -> tuple[np.ndarray, int | None]:
    """``robot_obs`` [T, 15] and the step at which the trace's task is achieved."""
    options = {name: trace[f"reset_{name}"] for name in ("robot_obs", "scene_obs")}
    _, start = env.reset(options=options)
    task = str(trace["task"]) if "task" in trace else None
    robot_obs, success = [], None
    for step, action in enumerate(trace["actions"]):
        observation, _, _, _, info = env.step(action)
        robot_obs.append(observation["robot_obs"])
        if success is None and task in oracle.achieved(start, info):
            success = step
    return np.stack(robot_obs), success


def test_free_motion_matches(env: PlayTableEnv, golden: Path) -> None:
    trace = np.load(golden / "free_D.npz")
    robot_obs, _ = replay(env, trace)
    assert np.abs(robot_obs - trace["robot_obs"]).max() < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_task_traces_match(env: PlayTableEnv, golden: Path, task: str) -> None:
    trace = np.load(golden / f"task_D_{task}.npz")
    robot_obs, success = replay(env, trace)
    assert success is not None
    assert abs(success - int(trace["success_step"])) <= 2
    distance = np.linalg.norm(robot_obs[:, :3] - trace["robot_obs"][:, :3], axis=1)
    assert distance.max() < 0.005


@pytest.mark.parametrize("state", ["closed_off", "open_on"])
def test_images_show_the_same_scene(golden: Path, state: str) -> None:
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


def test_official_assets_reproduce_free_motion(golden: Path) -> None:
    assets = golden.parent / "calvin_assets"
    if not assets.is_dir():
        pytest.skip(f"CALVIN's assets are not at {assets}")
    trace = np.load(golden / "free_D.npz")
    env = PlayTableEnv("D", assets=assets, cameras=False)
    try:
        robot_obs, _ = replay(env, trace)
    finally:
        env.close()
    assert np.array_equal(robot_obs, trace["robot_obs"])
