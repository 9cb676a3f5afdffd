"""Experts solve every task in every scene, from random starts and as recorded relative actions."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.calvin import actions
from wam import tasks
from wam.config import TASKS
from wam.envs.oracle import achieved
from wam.envs.play.experts import Expert, Manner
from wam.envs.play.session import random_manner
from wam.envs.play.starts import random_start
from wam.envs.scene_files.geometry import SCENES
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError


@pytest.fixture(scope="module", params=SCENES)
def any_env(request: pytest.FixtureRequest) -> Iterator[PlayTableEnv]:
    """Every scene without cameras."""
    made = PlayTableEnv(request.param, cameras=False)
    yield made
    made.close()


def solve(
    env: PlayTableEnv, task: str, options: dict[str, np.ndarray], manner: Manner | None = None
) -> list:
    """Observations from the reset until the task is achieved; fails after 64 steps."""
    observation, start = env.reset(options=options)
    expert = Expert(task, np.random.default_rng(0), manner, env.scene)
    observations = [observation]
    for _ in range(64):
        observation, _, _, _, info = env.step(expert.act(observation, env.target_pose))
        observations.append(observation)
        if task in achieved(start, info):
            return observations
    pytest.fail(f"scene {env.scene}: {task} not achieved in 64 steps")


@pytest.mark.parametrize("task", TASKS)
def test_expert_solves_the_task(any_env: PlayTableEnv, task: str) -> None:
    rng = np.random.default_rng(7)
    for manner in (Manner(), random_manner(rng, 0.1)):
        solve(any_env, task, random_start(any_env, rng, task), manner)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_expert_is_reliable(any_env: PlayTableEnv, task: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(25):
        solve(any_env, task, random_start(any_env, rng, task))


@pytest.mark.parametrize(("along", "reach"), [(-1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("task", TASKS)
def test_every_manner_solves_the_task(
    env: PlayTableEnv, task: str, along: float, reach: float
) -> None:
    options = random_start(env, np.random.default_rng(3), task)
    solve(env, task, options, Manner(speed=0.75, along=along, reach=reach))


@pytest.mark.parametrize("task", TASKS)
def test_hindsight_actions_replay(env: PlayTableEnv, task: str) -> None:
    """docs/calvin.md 2.3: relabelled actions solve the task, a little later."""
    options = random_start(env, np.random.default_rng(5), task)
    observations = solve(env, task, options)
    states = [observation["robot_obs"] for observation in observations]
    relabelled = [
        actions.relative(actions.absolute(following), state)
        for state, following in itertools.pairwise(states)
    ]
    _, start = env.reset(options=options)
    for step in range(len(relabelled) + 6):
        *_, info = env.step(relabelled[min(step, len(relabelled) - 1)])
        if task in achieved(start, info):
            return
    pytest.fail(f"{task}: the relabelled actions do not solve it")


@pytest.mark.parametrize("task", TASKS)
def test_starts_are_where_the_task_can_be_done(env: PlayTableEnv, task: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        observation, _ = env.reset(options=random_start(env, rng, task))
        assert tasks.startable(task, observation["scene_obs"])


def test_unknown_task_or_scene() -> None:
    with pytest.raises(WamError, match="unknown"):
        Expert("make_coffee", np.random.default_rng(0))
    with pytest.raises(WamError, match="unknown"):
        Expert("open_drawer", np.random.default_rng(0), scene="E")
