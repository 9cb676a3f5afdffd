"""Play is reproducible, busy and varied, and gets over its misses."""

from dataclasses import replace

import numpy as np
import pytest

from wam import tasks
from wam.config import TASKS
from wam.envs.experts import Expert, Manner
from wam.envs.geometry import SCENES
from wam.envs.play import Play, misses
from wam.envs.play_table import PlayTableEnv
from wam.envs.starts import random_start


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


@pytest.mark.parametrize("task", TASKS)
def test_miss_leaves_the_object_alone_and_is_recovered_from(env: PlayTableEnv, task: str) -> None:
    for shift in misses(task, SCENES["D"]):
        rng = np.random.default_rng(2)
        observation, _ = env.reset(options=random_start(env, rng, task))
        start = observation["scene_obs"]
        missing = Expert(task, rng, replace(Manner(), shift=shift))
        while True:
            action = missing.act(observation, env.target_pose)
            if missing.plans_done:
                break
            observation = env.step(action)[0]
        assert not tasks.changed(task, start, observation["scene_obs"]), shift
        expert = Expert(task, rng)
        for _ in range(64):
            observation = env.step(expert.act(observation, env.target_pose))[0]
            if tasks.achieved(task, start, observation["scene_obs"]):
                break
        else:
            pytest.fail(f"{task}: not recovered from {shift}")
