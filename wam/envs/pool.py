"""Many simulators in worker processes, stepped together in chunks.

Every episode has a physics client of its own: only a fresh client is bit-reproducible (CALVIN
contract 2.5), so results depend neither on the number of workers nor on what ran before. The parent
process keeps the models; workers need neither torch nor a GPU.
"""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from wam.envs.oracle import PREDICATES
from wam.envs.simulator.quiet import quiet_import
from wam.errors import WamError
from wam.reliability.spawn import end_with_parent, shielded

_IMAGES = ("rgb_static", "rgb_gripper")
_VECTORS = ("robot_obs", "scene_obs")


class Episode(NamedTuple):
    """What an episode starts from."""

    task: str
    robot_obs: np.ndarray
    """float64 [15]"""
    scene_obs: np.ndarray
    """float64 [24]"""
    seed: int = 0
    """For a controller that draws random numbers."""


class Observations(NamedTuple):
    """Arrays over episodes, or over episodes and steps; images are None without cameras."""

    robot_obs: np.ndarray
    """float64 [..., 15]"""
    scene_obs: np.ndarray
    """float64 [..., 24]"""
    rgb_static: np.ndarray | None
    """uint8 [..., height, width, 3]"""
    rgb_gripper: np.ndarray | None
    """uint8 [..., height, width, 3]"""


class Transitions(NamedTuple):
    """What happened in one call, for B episodes and at most n steps.

    An episode stops at its first success; later steps repeat its last observation (actions: NaN).
    """

    observations: Observations
    """[B, n, ...], after each step"""
    actions: np.ndarray
    """float64 [B, n, 7], as executed"""
    steps: np.ndarray
    """int [B], steps executed in this call"""
    success: np.ndarray
    """bool [B], the task has been achieved in this or an earlier call"""


class Controller(Protocol):
    """A policy that runs beside the simulator."""

    def act(self, env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The action [7] for the environment's last observation."""


class EnvPool:
    """``workers`` processes that hold one environment per episode.

    ``make_env`` makes one environment; it is pickled, as are ``prepare`` (applied to every image in
    the worker, e.g. the resize to the model's size) and the controllers of :meth:`follow`.

    A worker that dies is replaced once: its episodes start again and their actions are repeated,
    which gives the same states. A second death raises WamError.
    """

    def __init__(
        self,
        make_env: Callable[[], Any],
        workers: int,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._setup = pickle.dumps((make_env, prepare))
        self._num_workers = workers
        self._workers: list[_Worker] = []
        self._episodes: list[Episode] = []
        self._success = np.zeros(0, bool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
        self._workers = []

    def start(self, episodes: Sequence[Episode]) -> Observations:
        """The first observations [B, ...] of new episodes; earlier episodes are closed."""
        if not episodes:
            raise ValueError("a pool needs at least one episode")
        _check_tasks(episodes)
        while len(self._workers) < min(self._num_workers, len(episodes)):
            self._workers.append(_Worker(self._setup))
        self._episodes = list(episodes)
        self._success = np.zeros(len(episodes), bool)
        calls = {}
        for index, worker in enumerate(self._workers):
            rows = range(index, len(episodes), len(self._workers))
            worker.history = [_Start({row: episodes[row] for row in rows})]
            worker.replaced = False
            calls[worker] = worker.history[0]
        first = self._call(calls)
        self._last = [first[row] for row in range(len(episodes))]
        return _stack(self._last)

    def restart(self, episodes: Mapping[int, Episode]) -> Observations:
        """Replace the episodes of some rows; their first observations [R, ...] in the same order.

        The other rows stay as they are.
        """
        _check_tasks(episodes.values())
        calls: dict[_Worker, Command] = {}
        for index, worker in enumerate(self._workers):
            own = {row: new for row, new in episodes.items() if row % len(self._workers) == index}
            if own:
                calls[worker] = _Restart(own)
                worker.history.append(calls[worker])
        first = self._call(calls)
        for row, episode in episodes.items():
            self._episodes[row] = episode
            self._success[row] = False
            self._last[row] = first[row]
        return _stack([first[row] for row in episodes])

    def step(self, actions: np.ndarray) -> Transitions:
        """Execute ``actions`` [B, n, 7] open loop in all episodes that have not succeeded yet."""
        if len(actions) != len(self._episodes):
            raise ValueError(f"{len(actions)} rows of actions for {len(self._episodes)} episodes")
        actions = np.asarray(actions, np.float64)
        return self._advance(
            actions.shape[1], lambda rows: _Step({row: actions[row] for row in rows})
        )

    def follow(self, make_controller: Callable[[Episode], Controller], steps: int) -> Transitions:
        """Let a new controller per episode act for at most ``steps`` steps."""
        return self._advance(
            steps, lambda rows: _Follow(dict.fromkeys(rows, make_controller), steps)
        )

    def _advance(self, steps: int, command: "Callable[[list[int]], Command]") -> Transitions:
        calls = {}
        for index, worker in enumerate(self._workers):
            rows = range(index, len(self._episodes), len(self._workers))
            active = [row for row in rows if not self._success[row]]
            if active:
                calls[worker] = command(active)
                worker.history.append(calls[worker])
        results = self._call(calls)
        actions = np.full((len(self._episodes), steps, 7), np.nan)
        executed = np.zeros(len(self._episodes), np.int64)
        observations = []
        for row in range(len(self._episodes)):
            seen, taken, success = results.get(row, ([], [], True))
            self._success[row] = success
            executed[row] = len(seen)
            if seen:
                actions[row, : len(seen)] = taken
                self._last[row] = seen[-1]
            observations.append(_stack([*seen, *[self._last[row]] * (steps - len(seen))]))
        return Transitions(_stack(observations), actions, executed, self._success.copy())

    def _call(self, calls: "dict[_Worker, Command]") -> dict[int, Any]:
        """Send each worker its command; the results of all rows together."""
        results: dict[int, Any] = {}
        for worker, command in calls.items():
            worker.send(command)
        waiting = set(calls)
        while waiting:
            ready = wait([worker.connection for worker in waiting])
            for worker in [worker for worker in waiting if worker.connection in ready]:
                answer = worker.receive()
                if answer is None:
                    worker.replace()
                else:
                    results.update(answer)
                    waiting.remove(worker)
        return results


def _check_tasks(episodes: Iterable[Episode]) -> None:
    for episode in episodes:
        if episode.task not in PREDICATES:
            raise WamError(f"task '{episode.task}': unknown; known: {', '.join(PREDICATES)}")


class _Start(NamedTuple):
    episodes: dict[int, Episode]


class _Restart(NamedTuple):
    episodes: dict[int, Episode]


class _Step(NamedTuple):
    actions: dict[int, np.ndarray]


class _Follow(NamedTuple):
    controllers: dict[int, Callable[[Episode], Controller]]
    steps: int


Command = _Start | _Restart | _Step | _Follow


class _Worker:
    """The parent's end of one process, with everything needed to repeat its episodes."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self.history: list[Command] = []
        self.replaced = False
        self._spawn()

    def _spawn(self) -> None:
        # spawn: a fork would copy the parent's threads' locks, and its torch.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, self._setup), daemon=True, name="wam-simulator"
        )
        with shielded():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send a command; a dead process is noticed when its answer is read."""
        try:
            self.connection.send(command)
        except OSError:
            pass

    def receive(self) -> dict[int, Any] | None:
        """The answer to the last command, None if the process is dead."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, _Failure):
            if answer.wrong_input:
                raise WamError(answer.text)
            raise RuntimeError(f"a simulator process failed:\n{answer.text}")
        return answer

    def replace(self) -> None:
        """Start a new process, repeat the history in it and leave its last answer to be read."""
        self._process.join()
        code = self._process.exitcode
        self.connection.close()
        if self.replaced:
            reason = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
            episodes = self.history[0].episodes.values()  # type: ignore[union-attr]
            raise WamError(
                f"simulator: a worker process died twice ({reason}) with {len(episodes)} episodes "
                f"of {', '.join(sorted({e.task for e in episodes}))}; it may be out of memory "
                "(fewer env.workers) or met a broken renderer (env.renderer: tiny)"
            )
        self.replaced = True
        self._spawn()
        for command in self.history[:-1]:
            self.send(command)
            if self.receive() is None:
                return self.replace()
        self.send(self.history[-1])
        return None

    def terminate(self) -> None:
        self.connection.close()
        self._process.terminate()

    def join(self) -> None:
        """Wait for the end of a process that was terminated."""
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _Failure(NamedTuple):
    text: str
    wrong_input: bool


def _serve(connection: Connection, setup: bytes) -> None:
    """The worker: answer commands until the parent closes the connection or dies."""
    end_with_parent()
    with quiet_import():
        begin = partial(_Running, *pickle.loads(setup))
    running: dict[int, _Running] = {}
    while True:
        try:
            command = connection.recv()
        except EOFError:
            break
        try:
            answer = _answer(command, running, begin)
        except WamError as error:
            answer = _Failure(str(error), True)
        except Exception:  # noqa: BLE001 - the parent raises it with this traceback
            answer = _Failure(traceback.format_exc(), False)
        try:
            connection.send(answer)
        except OSError:
            break
    for episode in running.values():
        episode.close()


def _answer(
    command: Command, running: "dict[int, _Running]", begin: "Callable[[Episode], _Running]"
) -> Any:
    match command:
        case _Start(episodes):
            for row in list(running):
                running.pop(row).close()
            for row, episode in episodes.items():
                running[row] = begin(episode)
            return {row: episode.first for row, episode in running.items()}
        case _Restart(episodes):
            for row, episode in episodes.items():
                running[row].close()
                running[row] = begin(episode)
            return {row: running[row].first for row in episodes}
        case _Step(actions):
            return {row: running[row].run(chunk) for row, chunk in actions.items()}
        case _Follow(controllers, steps):
            return {row: running[row].follow(make, steps) for row, make in controllers.items()}


class _Running:
    """One environment in the middle of one episode."""

    def __init__(
        self,
        make_env: Callable[[], Any],
        prepare: Callable[[np.ndarray], np.ndarray] | None,
        episode: Episode,
    ) -> None:
        self._episode, self._prepare = episode, prepare
        self._achieved = PREDICATES[episode.task]
        self._env = make_env()
        self._observation, self._start_info = self._env.reset(
            options={"robot_obs": episode.robot_obs, "scene_obs": episode.scene_obs}
        )
        self.first = self._kept()

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def run(self, actions: np.ndarray) -> tuple[list[Observations], list[np.ndarray], bool]:
        """Observations after each action, the actions, and success; stops at success."""
        return self._run(iter(actions))

    def follow(
        self, make_controller: Callable[[Episode], Controller], steps: int
    ) -> tuple[list[Observations], list[np.ndarray], bool]:
        controller = make_controller(self._episode)
        return self._run(controller.act(self._env, self._observation) for _ in range(steps))

    def _run(
        self, actions: Iterable[np.ndarray]
    ) -> tuple[list[Observations], list[np.ndarray], bool]:
        seen, taken = [], []
        for action in actions:
            self._observation, _, _, _, info = self._env.step(action)
            seen.append(self._kept())
            taken.append(np.asarray(action, np.float64))
            if self._achieved(self._start_info, info):
                self.close()
                return seen, taken, True
        return seen, taken, False

    def _kept(self) -> Observations:
        vectors = {name: np.array(self._observation[name], np.float64) for name in _VECTORS}
        images: dict[str, Any] = dict.fromkeys(_IMAGES)
        for name in _IMAGES:
            if name in self._observation:
                rgb = self._observation[name]
                images[name] = np.asarray(self._prepare(rgb) if self._prepare else rgb, np.uint8)
        return Observations(**vectors, **images)


def _stack(rows: Sequence[Observations]) -> Observations:
    """Observations with one more leading axis."""
    fields = zip(*rows, strict=True)
    return Observations._make(None if part[0] is None else np.stack(part) for part in fields)
