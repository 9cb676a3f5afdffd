"""Pushed blocks move a few centimetres along the table and stay on it."""

import numpy as np
import pytest

from wam.envs.play.experts import reached, toward
from wam.envs.play.pushes import push_block
from wam.envs.play.starts import random_robot
from wam.envs.scene_files.geometry import SCENES
from wam.envs.simulator.play_table import PlayTableEnv


def scene(*blocks: tuple[float, float, float]) -> np.ndarray:
    """Everything closed and off; the blocks at these places."""
    state = np.zeros(24)
    for index, position in enumerate(blocks):
        state[6 + 6 * index : 9 + 6 * index] = position
    return state


SHELVED = ((-0.25, 0.09, 0.461), (0.05, 0.09, 0.461))


@pytest.mark.parametrize("seed", range(4))
def test_pushed_block_moves_a_few_centimetres(env: PlayTableEnv, seed: int) -> None:
    rng = np.random.default_rng(seed)
    robot_obs = random_robot(env, rng)
    observation, _ = env.reset(
        options={"robot_obs": robot_obs, "scene_obs": scene((0.15, -0.1, 0.46), *SHELVED)}
    )
    before = observation["scene_obs"]
    waypoints = push_block(before, SCENES["D"], rng)
    assert waypoints
    for waypoint in waypoints:
        for _ in range(waypoint.max_steps):
            robot_obs = observation["robot_obs"]
            if reached(waypoint, robot_obs):
                break
            observation = env.step(toward(waypoint, robot_obs, env.target_pose))[0]
    after = observation["scene_obs"]
    assert 0.005 < np.linalg.norm(after[6:8] - before[6:8]) < 0.12
    np.testing.assert_allclose(after[8], 0.46, atol=0.005)
    np.testing.assert_allclose(after[12:], before[12:], atol=0.01)
    np.testing.assert_allclose(after[:6], before[:6], atol=0.005)


def test_fingers_come_down_on_no_block_and_not_on_the_button() -> None:
    crowd = ((0.10, -0.10, 0.46), (0.20, -0.08, 0.46), (-0.04, -0.11, 0.46))
    blocks = np.array(crowd)[:, :2]
    for seed in range(100):
        for waypoint in push_block(scene(*crowd), SCENES["D"], np.random.default_rng(seed))[:2]:
            place = np.array(waypoint.position[:2])
            assert np.linalg.norm(blocks - place, axis=1).min() > 0.07
            assert np.linalg.norm(np.array(SCENES["D"].button[:2]) - place) > 0.1


@pytest.mark.parametrize("place", [(0.1, 0.09, 0.461), (0.18, -0.25, 0.36), (0.5, -0.3, 0.02)])
def test_no_block_on_the_table(place: tuple[float, float, float]) -> None:
    elsewhere = scene(place, *SHELVED)
    assert push_block(elsewhere, SCENES["D"], np.random.default_rng(0)) == []
