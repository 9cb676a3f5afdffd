"""The environment's interface: resets, bad input, lights, scenes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wam.envs.play.starts import random_robot, random_scene
from wam.envs.scene_files.geometry import SCENES
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError

HOLD = np.array([0, 0, 0, 0, 0, 0, 1.0])


def scene(**values: float) -> np.ndarray:
    state = np.zeros(24)
    for name, value in values.items():
        state[["slide", "drawer", "button", "switch", "bulb", "led"].index(name)] = value
    state[6:9], state[12:15], state[18:21] = (
        (0.05, -0.12, 0.46),
        (0.23, -0.12, 0.46),
        (0, 0.09, 0.46),
    )
    return state


def test_spaces_and_home(env: PlayTableEnv) -> None:
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    np.testing.assert_allclose(
        observation["robot_obs"][:6],
        [0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585],
        atol=1e-5,
    )
    assert info["robot_info"]["gripper_action"] == 1
    assert list(info["scene_info"]["movable_objects"]) == ["block_red", "block_blue", "block_pink"]


def test_one_action_moves_two_centimetres(env: PlayTableEnv) -> None:
    before = env.reset(options={"scene_obs": scene()})[0]["robot_obs"]
    after = env.step([0, 0, 1, 0, 0, 0, 1])[0]["robot_obs"]
    assert after[2] - before[2] == pytest.approx(0.51 * 0.02, abs=0.001)
    for _ in range(8):
        after = env.step(HOLD)[0]["robot_obs"]
    assert after[2] - before[2] == pytest.approx(0.02, abs=2e-4)


def test_reset_forgets_earlier_episodes(env: PlayTableEnv) -> None:
    rng = np.random.default_rng(0)
    starts = []
    for _ in range(8):
        env.reset(options={"scene_obs": scene()})
        robot_obs = random_robot(env, rng)
        starts.append({"robot_obs": robot_obs, "scene_obs": random_scene(rng, SCENES["D"])})
    motions = rng.normal(0, 0.7, (8, 25, 6))
    motions[:, :, 2] -= 0.5

    def episode(env: PlayTableEnv, index: int) -> np.ndarray:
        states = [env.reset(options=starts[index])[0]]
        states += [env.step([*motion, -1.0])[0] for motion in motions[index]]
        return np.stack([np.append(s["robot_obs"], s["scene_obs"]) for s in states])

    fresh = []
    for index in range(8):
        other = PlayTableEnv("D", cameras=False)
        fresh.append(episode(other, index))
        other.close()
    for index in rng.integers(0, 8, 20):
        assert np.array_equal(episode(env, index), fresh[index])


def test_reset_restores_the_scene(env: PlayTableEnv) -> None:
    state = scene(slide=0.2, drawer=0.15, switch=0.088, bulb=1, led=1)
    observation, info = env.reset(options={"scene_obs": state})
    np.testing.assert_allclose(observation["scene_obs"][:6], state[:6], atol=1e-4)
    assert info["scene_info"]["lights"]["led"]["logical_state"] == 1
    observation = env.step(HOLD)[0]
    assert observation["scene_obs"][4:6].tolist() == [1, 1]


def test_switch_position_decides_the_bulb_after_one_step(env: PlayTableEnv) -> None:
    env.reset(options={"scene_obs": scene(switch=0.088, bulb=0)})
    assert env.step(HOLD)[0]["scene_obs"][4] == 1
    env.reset(options={"scene_obs": scene(switch=0.0, bulb=1)})
    assert env.step(HOLD)[0]["scene_obs"][4] == 1


def test_sampled_blocks_depend_on_the_seed_alone(env: PlayTableEnv) -> None:
    first = env.reset(seed=3)[0]["scene_obs"]
    env.step(HOLD)
    second = env.reset(seed=4)[0]["scene_obs"]
    again = env.reset(seed=3)[0]["scene_obs"]
    assert np.array_equal(first, again)
    assert not np.allclose(first[6:], second[6:])


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros(6), "shape"),
        (np.full(7, np.nan), "not finite"),
        (np.zeros(7), "gripper"),
        ("up", "expected numbers"),
        ([0, 0, 0, 0, 0, 0, 0.5], "gripper"),
    ],
)
def test_bad_actions_change_nothing(env: PlayTableEnv, action: Any, words: str) -> None:
    env.reset(options={"scene_obs": scene()})
    target = env.target_pose
    with pytest.raises(WamError, match=words):
        env.step(action)
    assert np.array_equal(env.target_pose, target)
    env.step(HOLD)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scene_obs": scene(led=0.5)}, "lights"),
        ({"scene_obs": np.zeros(23)}, "shape"),
        ({"robot_obs": np.full(15, np.inf)}, "not finite"),
        ({"robot": np.zeros(15)}, "unknown option"),
    ],
)
def test_bad_resets_change_nothing(env: PlayTableEnv, options: dict[str, Any], words: str) -> None:
    env.reset(options={"scene_obs": scene(led=1)})
    with pytest.raises(WamError, match=words):
        env.reset(options=options)
    assert env.step(HOLD)[0]["scene_obs"][5] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scene": "E"}, "unknown scene"),
        ({"renderer": "raytracer"}, "unknown renderer"),
        ({"robot_model": "heavy"}, "unknown model"),
        ({"assets": "/no/such/place"}, "not found"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(WamError, match=words):
        PlayTableEnv(**arguments)


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_renders_its_lights(name: str) -> None:
    env = PlayTableEnv(name, renderer="tiny", static_size=64, gripper_size=64)
    try:
        off = env.reset(options={"scene_obs": scene()})[0]["rgb_static"].astype(int)
        on = env.reset(options={"scene_obs": scene(bulb=1, led=1, switch=0.088)})[0]
        green = on["rgb_static"].astype(int)
        lit = (green[..., 1] > 150) & (green[..., 0] < 100) & (green[..., 2] < 100)
        assert lit.sum() > 10
        assert (off[lit].min(axis=1) > 120).all()
        assert on["rgb_gripper"].shape == (64, 64, 3)
    finally:
        env.close()
        env.close()


def test_several_environments_in_one_process() -> None:
    first, second = PlayTableEnv("D", cameras=False), PlayTableEnv("A", cameras=False)
    try:
        one = first.reset(options={"scene_obs": scene()})[0]["robot_obs"]
        second.reset(options={"scene_obs": scene()})
        second.step([1, 1, 1, 0, 0, 0, -1])
        two = first.reset(options={"scene_obs": scene()})[0]["robot_obs"]
    finally:
        first.close()
        second.close()
    assert np.array_equal(one, two)


def test_scene_files_are_made_anew_where_they_are_damaged(tmp_path: Path) -> None:
    code = (
        "from wam.envs.scene_files.assets import embedded_assets\n"
        "print(embedded_assets('D', 'light').table)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def table() -> Path:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        )
        return Path(done.stdout.decode().strip())

    path = table()
    content = path.read_bytes()
    path.write_text("damaged")
    assert table() == path
    assert path.read_bytes() == content
    assert tmp_path in path.parents
