"""Experts solve every task, from random starts and as recorded relative actions."""

import itertools

import numpy as np
import pytest

from pipeline.play_episode import hindsight_actions
from wam import tasks
from wam.config import TASKS
from wam.envs.experts import Expert
from wam.envs.geometry import SCENES
from wam.envs.oracle import achieved
from wam.envs.play import Play
from wam.envs.play_table import PlayTableEnv
from wam.envs.starts import random_robot, random_scene
from wam.errors import WamError


def random_start(env: PlayTableEnv, task: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    env.reset(options={"scene_obs": random_scene(rng, SCENES["D"])})
    robot_obs = random_robot(env, rng)
    while True:
        scene_obs = random_scene(rng, SCENES["D"])
        if tasks.startable(task, scene_obs):
            return {"robot_obs": robot_obs, "scene_obs": scene_obs}


def solve(env: PlayTableEnv, task: str, options: dict[str, np.ndarray], noise: float) -> list:
    """Observations from the reset until the task is achieved; fails after 64 steps."""
    observation, start = env.reset(options=options)
    expert = Expert(task, np.random.default_rng(0), noise)
    observations = [observation]
    for _ in range(64):
        observation, _, _, _, info = env.step(expert.act(observation))
        observations.append(observation)
        if task in achieved(start, info):
            return observations
    pytest.fail(f"{task} not achieved in 64 steps")


@pytest.mark.parametrize("task", TASKS)
def test_expert_solves_the_task(env: PlayTableEnv, task: str) -> None:
    rng = np.random.default_rng(7)
    for noise in (0.0, 0.1, 0.1):
        solve(env, task, random_start(env, task, rng), noise)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_expert_is_reliable(env: PlayTableEnv, task: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(50):
        solve(env, task, random_start(env, task, rng), 0.0)


@pytest.mark.parametrize("task", TASKS)
def test_hindsight_actions_replay(env: PlayTableEnv, task: str) -> None:
    """CALVIN contract 2.3: relabelled actions solve the task, a little later."""
    options = random_start(env, task, np.random.default_rng(5))
    observations = solve(env, task, options, 0.0)
    states = [observation["robot_obs"] for observation in observations]
    relabelled = [hindsight_actions(*pair)[1] for pair in itertools.pairwise(states)]
    _, start = env.reset(options=options)
    for step in range(len(relabelled) + 6):
        *_, info = env.step(relabelled[min(step, len(relabelled) - 1)])
        if task in achieved(start, info):
            return
    pytest.fail(f"{task}: the relabelled actions do not solve it")


def test_unknown_task() -> None:
    with pytest.raises(WamError, match="unknown"):
        Expert("make_coffee", np.random.default_rng(0))


def test_play_is_reproducible_and_busy(env: PlayTableEnv) -> None:
    def record() -> tuple[np.ndarray, list]:
        play = Play(env, np.random.default_rng(1), 0.1)
        frames = [np.append(o["robot_obs"], o["scene_obs"]) for o in play.frames(250)]
        return np.stack(frames), play.executions

    frames, executions = record()
    again, _ = record()
    assert np.array_equal(frames, again)
    assert len(executions) >= 4
    for execution in executions:
        start, end = frames[execution.approach, 15:], frames[execution.stop - 1, 15:]
        assert tasks.achieved(execution.task, start, end)
    # Faster than 2 cm per frame would be lost in the relative actions.
    assert (np.abs(np.diff(frames[:, :3], axis=0)) > 0.02).mean() < 0.05
