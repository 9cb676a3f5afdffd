"""A pool's worker process: it runs episodes as the parent commands, without torch or a GPU.

Commands and answers go by row, the place of an episode in the pool.
"""

import pickle
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from wam.envs.episode import Controller, Episode, Observations
from wam.envs.oracle import PREDICATES
from wam.envs.simulator.quiet import quiet_import
from wam.errors import WamError
from wam.reliability.spawn import end_with_parent


class StartEpisodes(NamedTuple):
    """Close all episodes and begin these; answered with their first observations."""

    episodes: dict[int, Episode]


class Restart(NamedTuple):
    """Begin these in place of the same rows' episodes; answered with their first observations."""

    episodes: dict[int, Episode]


class Step(NamedTuple):
    """Execute actions [n, 7] open loop; answered with the :class:`Run` of each row."""

    actions: dict[int, np.ndarray]


class Follow(NamedTuple):
    """Let a new controller act for ``steps`` at most; answered with the :class:`Run` of each."""

    controllers: dict[int, Callable[[Episode], Controller]]
    steps: int


Request = StartEpisodes | Restart | Step | Follow


class Run(NamedTuple):
    """What came of one command in one episode, and where that stands."""

    seen: list[Observations]
    """After each action"""
    taken: list[np.ndarray]
    """The actions, float64 [7]"""
    aftermath: int
    """How many of these came after the first success"""
    success: bool
    over: bool


class Failure(NamedTuple):
    """The answer to a command that failed."""

    text: str
    """The message of a wrong input, otherwise the traceback."""
    wrong_input: bool


def serve(connection: Connection, setup: bytes) -> None:
    """Answer commands until the parent closes ``connection`` or dies.

    ``setup`` are the pickled ``make_env`` and ``prepare`` of the pool.
    """
    end_with_parent()
    with quiet_import():
        begin = partial(_RunningEpisode, *pickle.loads(setup))
    running: dict[int, _RunningEpisode] = {}
    while True:
        try:
            command = connection.recv()
        except EOFError:
            break
        try:
            answer: dict[int, Any] | Failure = _answer(command, running, begin)
        except WamError as error:
            answer = Failure(str(error), True)
        except Exception:  # noqa: BLE001 - the parent raises it with this traceback
            answer = Failure(traceback.format_exc(), False)
        try:
            connection.send(answer)
        except OSError:
            break
    for episode in running.values():
        episode.close()


def _answer(
    command: Request,
    running: "dict[int, _RunningEpisode]",
    begin: "Callable[[Episode], _RunningEpisode]",
) -> dict[int, Any]:
    match command:
        case StartEpisodes(episodes):
            for row in list(running):
                running.pop(row).close()
            for row, episode in episodes.items():
                running[row] = begin(episode)
            return {row: episode.first for row, episode in running.items()}
        case Restart(episodes):
            for row, episode in episodes.items():
                running[row].close()
                running[row] = begin(episode)
            return {row: running[row].first for row in episodes}
        case Step(actions):
            return {row: running[row].run(chunk) for row, chunk in actions.items()}
        case Follow(controllers, steps):
            return {row: running[row].follow(make, steps) for row, make in controllers.items()}


class _RunningEpisode:
    """One environment in the middle of one episode."""

    def __init__(
        self,
        make_env: Callable[[], Any],
        prepare: Callable[[np.ndarray], np.ndarray] | None,
        episode: Episode,
    ) -> None:
        self._episode, self._prepare = episode, prepare
        self._achieved = PREDICATES[episode.task]
        self._success, self._left = False, episode.aftermath
        self._env = make_env()
        self._observation, self._start_info = self._env.reset(
            options={"robot_obs": episode.robot_obs, "scene_obs": episode.scene_obs}
        )
        self.first = self._kept()

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def run(self, actions: Iterable[np.ndarray]) -> Run:
        """Execute ``actions`` until the first success or its aftermath closes the environment."""
        seen, taken, aftermath = [], [], 0
        for action in actions:
            self._observation, _, _, _, info = self._env.step(action)
            seen.append(self._kept())
            taken.append(np.asarray(action, np.float64))
            if self._success:
                aftermath += 1
                self._left -= 1
            else:
                self._success = self._achieved(self._start_info, info)
            if self._success and not self._left:
                self.close()
                break
        return Run(seen, taken, aftermath, self._success, self._env is None)

    def follow(self, make_controller: Callable[[Episode], Controller], steps: int) -> Run:
        """As :meth:`run`, with the actions of a new controller."""
        controller = make_controller(self._episode)
        return self.run(controller.act(self._env, self._observation) for _ in range(steps))

    def _kept(self) -> Observations:
        robot_obs, scene_obs = (
            np.array(self._observation[name], np.float64) for name in ("robot_obs", "scene_obs")
        )
        return Observations(
            robot_obs, scene_obs, self._image("rgb_static"), self._image("rgb_gripper")
        )

    def _image(self, name: str) -> np.ndarray | None:
        rgb = self._observation.get(name)
        if rgb is None:
            return None
        return np.asarray(self._prepare(rgb) if self._prepare else rgb, np.uint8)
