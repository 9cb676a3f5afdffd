"""The pool with the real simulator; pushing down on the button turns the LED on."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")

from tests.processes import Whom, interrupted
from tests.wam.button import HOLD, PIXELS, STATES, episodes, processes, recorded
from wam.envs.episode import Episode
from wam.envs.pool import EnvPool
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError


@pytest.fixture(scope="module")
def starts() -> list[Episode]:
    return episodes(3)


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[EnvPool, EnvPool]]:
    """A pool with one worker and one with two."""
    with EnvPool(STATES, 1) as one, EnvPool(STATES, 2) as two:
        yield one, two


def actions(count: int, steps: int, pressing: int) -> np.ndarray:
    """All but the last episode press the button from step ``pressing`` on; the last one holds."""
    chunk = np.tile(HOLD, (count, steps, 1))
    chunk[:-1, pressing:, 2] = -1.0
    return chunk


class Press:
    """Goes down, and reports what a worker has imported."""

    def __init__(self, episode: Episode) -> None:
        self.speed = -1.0 if episode.seed == 0 else 0.0

    def act(self, env: PlayTableEnv, observation: dict[str, np.ndarray]) -> np.ndarray:
        assert "torch" not in sys.modules
        return np.array([0, 0, self.speed, 0, 0, 0, observation["robot_obs"][14]])


def same(first: object, second: object) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_outcomes_do_not_depend_on_the_number_of_workers(starts: list[Episode], pools) -> None:
    runs = []
    for pool in pools:
        first = pool.start(starts)
        runs.append((first, [pool.step(actions(3, 4, 1)) for _ in range(5)]))
    (first_1, chunks_1), (first_2, chunks_2) = runs
    same(first_1[:2], first_2[:2])
    for one, two in zip(chunks_1, chunks_2, strict=True):
        same(one.observations[:2], two.observations[:2])
        same(one[1:], two[1:])
    assert chunks_1[-1].success.tolist() == [True, True, False]


def test_an_episode_stops_at_its_first_success(starts: list[Episode], pools) -> None:
    pool = pools[1]
    pool.start(starts)
    result = pool.step(actions(3, 30, 0))
    after = pool.step(actions(3, 4, 0))
    assert result.success.tolist() == [True, True, False]
    stopped = result.steps[0]
    assert 0 < stopped < 30
    assert result.steps[2] == 30
    led = result.observations.scene_obs[0, :, 5]
    np.testing.assert_array_equal(led, np.arange(30) >= stopped - 1)
    assert np.isnan(result.actions[0, stopped:]).all()
    np.testing.assert_array_equal(result.actions[0, :stopped], actions(3, 30, 0)[0, :stopped])
    assert after.steps.tolist() == [0, 0, 4]
    np.testing.assert_array_equal(
        after.observations.robot_obs[0, -1], result.observations.robot_obs[0, -1]
    )


def test_an_episode_goes_on_for_its_aftermath(starts: list[Episode], pools) -> None:
    """Over several calls, and without changing what came before."""
    pool = pools[1]
    pool.start(starts)
    usual = pool.step(actions(3, 30, 0))
    pool.start([start._replace(aftermath=6) for start in starts])
    results = [pool.step(actions(3, 4, 0)) for _ in range(8)]
    steps, aftermath = (
        np.sum([getattr(result, name) for result in results], 0) for name in ("steps", "aftermath")
    )
    assert aftermath.tolist() == [6, 6, 0]
    np.testing.assert_array_equal((steps - aftermath)[:2], usual.steps[:2])
    assert steps[2] == 32
    last = -(-int(usual.steps[0]) // 4) - 1
    assert [result.success[0] for result in results] == [call >= last for call in range(8)]
    closed = -(-int(steps[0]) // 4) - 1
    assert [result.over[0] for result in results] == [call >= closed for call in range(8)]
    assert not any(result.over[2] for result in results)
    seen = np.concatenate([result.observations.robot_obs for result in results], 1)
    until = usual.steps[0]
    np.testing.assert_array_equal(seen[0, :until], usual.observations.robot_obs[0, :until])
    assert (np.diff(seen[0, : steps[0], 2]) != 0).all(), "the arm goes on"
    assert (seen[0, steps[0] :] == seen[0, steps[0] - 1]).all()
    pool.restart({0: starts[0]})
    again = pool.step(actions(3, 30, 0))
    assert (again.steps[0], again.aftermath[0], again.over[0]) == (until, 0, True)
    with EnvPool(STATES, 2) as killed:
        killed.start([start._replace(aftermath=6) for start in starts])
        for call, result in enumerate(results):
            if call == last + 1:
                kill_worker(killed)
            repeated = killed.step(actions(3, 4, 0))
            same(repeated.observations[:2], result.observations[:2])
            same(repeated[1:], result[1:])


def test_a_new_batch_is_not_touched_by_an_earlier_one(starts: list[Episode], pools) -> None:
    pool = pools[0]
    pool.start(starts[:2])
    first = pool.step(actions(2, 12, 0))
    pool.start(starts[1:])
    pool.step(actions(2, 12, 0))
    pool.start(starts[:2])
    again = pool.step(actions(2, 12, 0))
    same(first.observations[:2], again.observations[:2])


def test_controllers_act_beside_the_simulator(starts: list[Episode], pools) -> None:
    pools[1].start(starts)
    result = pools[1].follow(Press, 20)
    assert result.success.tolist() == [True, False, False]
    assert result.steps[1] == 20
    np.testing.assert_array_equal(result.actions[1], np.tile(HOLD, (20, 1)))


def half(rgb: np.ndarray) -> np.ndarray:
    return rgb[::2, ::2]


def test_images_are_prepared_in_the_worker(starts: list[Episode]) -> None:
    with EnvPool(PIXELS, 1, half) as pool:
        first = pool.start(starts[:1])
        result = pool.step(actions(2, 2, 0)[1:])
    assert first.rgb_static.shape == (1, 32, 32, 3)
    assert result.observations.rgb_gripper.shape == (1, 2, 32, 32, 3)
    assert result.observations.rgb_gripper.dtype == np.uint8


def kill_worker(pool: EnvPool, index: int = 0) -> None:
    """End a process; with two of them the first is that of the first and the last episode."""
    os.kill(pool._workers[index].pid, signal.SIGKILL)


def test_a_dead_worker_is_replaced_once_with_the_same_outcome(starts: list[Episode], pools) -> None:
    pools[0].start(starts)
    expected = [pools[0].step(actions(3, 8, 2)) for _ in range(2)]
    with EnvPool(STATES, 2) as pool:
        pool.start(starts)
        first = pool.step(actions(3, 8, 2))
        kill_worker(pool)
        second = pool.step(actions(3, 8, 2))
        for got, wanted in ((first, expected[0]), (second, expected[1])):
            same(got.observations[:2], wanted.observations[:2])
            same(got[1:], wanted[1:])
        kill_worker(pool)
        with pytest.raises(WamError, match=r"died twice \(signal 9\).*turn_on_led"):
            pool.step(actions(3, 8, 2))


def test_single_episodes_begin_anew_while_the_others_go_on(starts: list[Episode], pools) -> None:
    begun = pools[0].start(starts)
    whole = [pools[0].step(actions(3, 4, 1)) for _ in range(5)]
    for workers in (1, 2):
        with EnvPool(STATES, workers) as pool:
            pool.start(starts)
            for _ in range(3):
                pool.step(actions(3, 4, 1))
            first = pool.restart({2: starts[0], 1: starts[1]})
            np.testing.assert_array_equal(first.robot_obs, begun.robot_obs[:2])
            again = pool.step(actions(3, 4, 1))
            kill_worker(pool)
            after = pool.step(actions(3, 4, 1))
        for got, expected, old in ((again, whole[3], whole[0]), (after, whole[4], whole[1])):
            for mine, usual, from_start in zip(
                got.observations[:2], expected.observations[:2], old.observations[:2], strict=True
            ):
                np.testing.assert_array_equal(mine[0], usual[0])
                np.testing.assert_array_equal(mine[1], from_start[1])
        assert again.steps.tolist() == [whole[3].steps[0], *whole[0].steps[[1, 0]]]
        assert not again.success[2]


def test_every_episode_may_have_a_process_to_itself(
    starts: list[Episode], pools, tmp_path: Path
) -> None:
    begun, log = pools[0].start(starts), tmp_path / "log"
    whole = pools[0].step(actions(3, 16, 1))
    with EnvPool(partial(recorded, log), 2, fresh_processes=True) as pool:
        with pytest.raises(ValueError, match="3 episodes for 2 processes"):
            pool.start(starts)
        groups = pool.groups(3)
        assert groups == [slice(0, 2), slice(2, 3)]
        for rows in groups:
            first = pool.start(starts[rows])
            result = pool.step(actions(3, 16, 1)[rows])
            same(first[:2], [part[rows] for part in begun[:2]])
            same(result.observations[:2], [part[rows] for part in whole.observations[:2]])
            same(result[1:], [part[rows] for part in whole[1:]])
        assert whole.success.tolist() == [True, True, False]
        pool.start(starts[1:])
        again = pool.restart({1: starts[0]})
        same(again[:2], [part[:1] for part in begun[:2]])
        result = pool.step(actions(3, 16, 1)[:2])
        same([result.steps, result.success], [whole.steps[[1, 0]], whole.success[[1, 0]]])
    pids, most = processes(log)
    assert len(pids) == len(set(pids)) == 6
    assert most == 2


def test_a_dead_process_of_one_episode_is_replaced_once(starts: list[Episode], pools) -> None:
    pools[0].start(starts)
    expected = [pools[0].step(actions(3, 4, 1)) for _ in range(2)]
    with EnvPool(STATES, 3, fresh_processes=True) as pool:
        pool.start(starts)
        pool.step(actions(3, 4, 1))
        kill_worker(pool, 2)
        result = pool.step(actions(3, 4, 1))
        same(result.observations[:2], expected[1].observations[:2])
        same(result[1:], expected[1][1:])
        kill_worker(pool, 2)
        with pytest.raises(WamError, match=r"died twice \(signal 9\) with 1 episode of"):
            pool.step(actions(3, 4, 1))


def test_wrong_input_in_a_worker_is_the_users_error(starts: list[Episode], pools) -> None:
    with pytest.raises(WamError, match="robot_obs"):
        pools[0].start([starts[0]._replace(robot_obs=np.zeros(3))])
    with pytest.raises(WamError, match="task 'fly': unknown"):
        pools[0].start([starts[0]._replace(task="fly")])


ENDLESS = """
import signal
from tests.wam.button import STATES, episodes
from wam.envs.pool import EnvPool
from wam.reliability.interruption import interrupt


class Endless:
    def act(self, env, observation):
        return [0.0] * 6 + [1.0]


def begin(episode):
    return Endless()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with EnvPool(STATES, 2) as pool:
            pool.start(episodes(2))
            pool.follow(begin, 10**9)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("whom", ["group", "parent"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_an_interrupted_command(
    tmp_path: Path, signum: signal.Signals, whom: Whom
) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    result = interrupted([str(script)], signum, num_workers=2, whom=whom, cwd=tmp_path)
    if signum != signal.SIGKILL:
        assert result == (0, "interrupted\n", "")
