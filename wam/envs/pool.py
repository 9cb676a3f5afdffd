"""Many simulators in worker processes, stepped together in chunks.

Every episode has a physics client of its own: only a fresh client is bit-reproducible
(docs/calvin.md 2.5), so results depend neither on the number of workers nor on what ran before. The
parent process keeps the models; workers need neither torch nor a GPU.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

import numpy as np

from wam.envs.episode import Controller, Episode, Observations, StepResult
from wam.envs.oracle import PREDICATES
from wam.envs.pool_worker import Failure, Follow, Request, Restart, Run, StartEpisodes, Step, serve
from wam.errors import WamError
from wam.reliability.spawn import shielded


class EnvPool:
    """At most ``workers`` processes that hold one environment per episode.

    ``make_env`` makes one environment; it is pickled, as are ``prepare`` (applied to every image in
    the worker, e.g. the resize to the model's size) and the controllers of :meth:`follow`.

    With ``fresh_processes`` every episode has a process that no other one uses, before or after;
    more episodes than workers then run one of :meth:`groups` after the other.

    A worker that dies is replaced once: its episodes start again and their actions are repeated,
    which gives the same states. A second death raises WamError.
    """

    def __init__(
        self,
        make_env: Callable[[], Any],
        workers: int,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        fresh_processes: bool = False,
    ) -> None:
        self._setup = pickle.dumps((make_env, prepare))
        self._num_workers, self._fresh_processes = workers, fresh_processes
        self._workers: list[_Worker] = []
        self._episodes: list[Episode] = []
        self._success = self._over = np.zeros(0, bool)

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

    def groups(self, episodes: int) -> list[slice]:
        """The rows of so many episodes, in the fewest groups that can each be started at once."""
        size = self._num_workers if self._fresh_processes else episodes
        return [slice(at, min(at + size, episodes)) for at in range(0, episodes, size)]

    def start(self, episodes: Sequence[Episode]) -> Observations:
        """The first observations [B, ...] of new episodes; earlier episodes are closed.

        Raises ValueError for more episodes than one of :meth:`groups`.
        """
        if not episodes:
            raise ValueError("a pool needs at least one episode")
        if len(self.groups(len(episodes))) > 1:
            raise ValueError(f"{len(episodes)} episodes for {self._num_workers} processes")
        _check_tasks(episodes)
        if self._fresh_processes:
            self.close()
        while len(self._workers) < min(self._num_workers, len(episodes)):
            self._workers.append(_Worker(self._setup))
        self._episodes = list(episodes)
        self._success, self._over = np.zeros((2, len(episodes)), bool)
        calls = {}
        for index, worker in enumerate(self._workers):
            rows = range(index, len(episodes), len(self._workers))
            worker.history = [StartEpisodes({row: episodes[row] for row in rows})]
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
        calls: dict[_Worker, Request] = {}
        for index, worker in enumerate(self._workers):
            own = {row: new for row, new in episodes.items() if row % len(self._workers) == index}
            if not own:
                continue
            if self._fresh_processes:
                worker.terminate()
                worker.join()
                worker = self._workers[index] = _Worker(self._setup)
                calls[worker] = StartEpisodes(own)
            else:
                calls[worker] = Restart(own)
            worker.history.append(calls[worker])
        first = self._call(calls)
        for row, episode in episodes.items():
            self._episodes[row] = episode
            self._success[row] = self._over[row] = False
            self._last[row] = first[row]
        return _stack([first[row] for row in episodes])

    def step(self, actions: np.ndarray) -> StepResult:
        """Execute ``actions`` [B, n, 7] open loop in all episodes that are not over."""
        if len(actions) != len(self._episodes):
            raise ValueError(f"{len(actions)} rows of actions for {len(self._episodes)} episodes")
        actions = np.asarray(actions, np.float64)
        return self._advance(
            actions.shape[1], lambda rows: Step({row: actions[row] for row in rows})
        )

    def follow(self, make_controller: Callable[[Episode], Controller], steps: int) -> StepResult:
        """Let a new controller per episode act for at most ``steps`` steps."""
        return self._advance(
            steps, lambda rows: Follow(dict.fromkeys(rows, make_controller), steps)
        )

    def _advance(self, steps: int, command: "Callable[[list[int]], Request]") -> StepResult:
        calls = {}
        for index, worker in enumerate(self._workers):
            rows = range(index, len(self._episodes), len(self._workers))
            active = [row for row in rows if not self._over[row]]
            if active:
                calls[worker] = command(active)
                worker.history.append(calls[worker])
        results = self._call(calls)
        actions = np.full((len(self._episodes), steps, 7), np.nan)
        executed, aftermath = np.zeros((2, len(self._episodes)), np.int64)
        observations = []
        for row in range(len(self._episodes)):
            run = results.get(row, Run([], [], 0, self._success[row], True))
            self._success[row], self._over[row] = run.success, run.over
            executed[row], aftermath[row] = len(run.seen), run.aftermath
            if run.seen:
                actions[row, : len(run.seen)] = run.taken
                self._last[row] = run.seen[-1]
            still = [self._last[row]] * (steps - len(run.seen))
            observations.append(_stack([*run.seen, *still]))
        success, over = self._success.copy(), self._over.copy()
        return StepResult(_stack(observations), actions, executed, aftermath, success, over)

    def _call(self, calls: "dict[_Worker, Request]") -> dict[int, Any]:
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


class _Worker:
    """The parent's end of one process, with everything needed to repeat its episodes."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self.history: list[Request] = []
        self.replaced = False
        self._spawn()

    def _spawn(self) -> None:
        # spawn: a fork would copy the parent's threads' locks, and its torch.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=serve, args=(theirs, self._setup), daemon=True, name="wam-simulator"
        )
        with shielded():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, command: Request) -> None:
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
        if isinstance(answer, Failure):
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
            count = f"{len(episodes)} episode{'s' if len(episodes) > 1 else ''}"
            raise WamError(
                f"simulator: a worker process died twice ({reason}) with {count} "
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
        # First: a process whose answer was not read would complain of the closed connection.
        self._process.terminate()
        self.connection.close()

    def join(self) -> None:
        """Wait for the end of a process that was terminated."""
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _stack(rows: Sequence[Observations]) -> Observations:
    """Observations with one more leading axis."""
    fields = zip(*rows, strict=True)
    return Observations._make(None if part[0] is None else np.stack(part) for part in fields)
