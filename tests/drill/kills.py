"""Kills: at every operation of a stage that changes the file system, and at any time."""

import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drill.project import Run, Stage, leftovers, run
from tests.pipeline.artifact import content

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink")


@dataclass(frozen=True)
class Trial:
    """One fault and what came of it."""

    stage: str
    kind: str
    """A column of the table."""
    when: str
    problems: tuple[str, ...]
    """Empty if all is well: the next run ended well, with the same bytes, and left nothing."""


class Tracer:
    """Counts the operations below ``root`` that change the file system; acts before one, or all."""

    def __init__(self, root: Path, at: int | None = None, act: Any = None) -> None:
        self.seen: list[str] = []
        self._root, self._at, self._act = str(root), at, act

    def install(self) -> None:
        """From now on, for the rest of the process."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES:
            path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
        elif event == "open" and _creates(arguments):
            path = arguments[0]
        else:
            return
        if isinstance(path, int) or not _is_below(path, self._root):
            return
        if self._act and self._at in (None, len(self.seen)):
            self._act(event, path)
        self.seen.append(f"{event} {os.fsdecode(path)}")


def _is_below(path: str | bytes | os.PathLike[Any], root: str) -> bool:
    name = Path(os.fsdecode(path)).absolute()
    # Views of the journals that are made anew whenever a training goes on, hundreds of files.
    return str(name).startswith(root) and "logs" not in name.parts


def _creates(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_CREAT | os.O_TRUNC))


def operations(project: Path, stage: Stage) -> list[str]:
    """What an undisturbed run of ``stage`` changes below ``data/``, in order."""
    tracer = Tracer(project / "data")
    listing = project / "operations.txt"

    _forget(stage, project)
    ended = run(project, stage.argv, tracer.install, lambda: _save(listing, tracer))
    if ended.status != 0:
        raise RuntimeError(f"{stage.name} fails undisturbed: {ended.output}")
    return listing.read_text().splitlines()


def _save(path: Path, tracer: Tracer) -> None:
    path.write_text("".join(f"{line}\n" for line in tracer.seen))


def killed_at(project: Path, stage: Stage, number: int, expected: dict[str, str]) -> Trial:
    """Kill ``stage`` before its operation ``number``, run it again, and look."""

    def kill(event: str, path: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    _forget(stage, project)
    tracer = Tracer(project / "data", number, kill)
    killed = run(project, stage.argv, tracer.install)
    problems = [] if killed.status == -signal.SIGKILL else [f"not killed: {killed.status}"]
    problems += _next_run(project, stage, expected)
    return Trial(stage.name, "killed at an operation", f"before number {number}", tuple(problems))


def killed_sometime(
    project: Path,
    stage: Stage,
    signum: signal.Signals,
    seconds: float,
    expected: dict[str, str],
) -> Trial:
    """Send ``signum`` to ``stage`` after ``seconds``, run it again, and look."""
    _forget(stage, project)
    ended = run(project, stage.argv, signal_after=(seconds, signum))
    # Whoever is asked before the handler is there ends as the system lets it end.
    fine = {0, -signum} if signum == signal.SIGKILL else {0, 128 + signum, -signum}
    problems = []
    if ended.status not in fine:
        problems.append(f"ended with {ended.status}: {ended.output[-300:]}")
    if signum != signal.SIGKILL:
        problems += _unclear(ended)
    problems += _next_run(project, stage, expected)
    return Trial(stage.name, f"{signum.name} at any time", f"{seconds:.2f} s", tuple(problems))


def refused_at(project: Path, stage: Stage, number: int, expected: dict[str, str]) -> Trial:
    """Let the system refuse operation ``number``: no space left on the device."""

    def refuse(event: str, path: object) -> None:
        raise OSError(28, "No space left on device", os.fsdecode(path))  # type: ignore[arg-type]

    _forget(stage, project)
    tracer = Tracer(project / "data", number, refuse)
    ended = run(project, stage.argv, tracer.install)
    problems = _unclear(ended)
    if ended.status not in (0, 1):
        problems.append(f"ended with {ended.status}: {ended.output[-300:]}")
    if ended.status == 1 and "No space left on device" not in ended.output:
        problems.append(f"does not say why: {ended.output[-300:]}")
    problems += _next_run(project, stage, expected)
    return Trial(stage.name, "disk full at an operation", f"number {number}", tuple(problems))


def limited(project: Path, stage: Stage, num_bytes: int, expected: dict[str, str]) -> Trial:
    """Let the system refuse to write more than ``num_bytes`` to any file, in whatever library."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    _forget(stage, project)
    ended = run(project, stage.argv, limit)
    problems = _unclear(ended)
    if ended.status not in (0, 1):
        problems.append(f"ended with {ended.status}: {ended.output[-300:]}")
    if ended.status == 1 and str(Path("data") / stage.profile) not in ended.output:
        problems.append(f"names no file: {ended.output[-300:]}")
    problems += _next_run(project, stage, expected)
    return Trial(stage.name, "file too large", f"{num_bytes} bytes", tuple(problems))


def _unclear(ended: Run) -> list[str]:
    return [f"traceback: {ended.output[-600:]}"] if ended.has_traceback else []


def _next_run(project: Path, stage: Stage, expected: dict[str, str]) -> list[str]:
    """What is wrong with the run after a fault."""
    directory = stage.directory(project)
    ended = run(project, stage.argv)
    if ended.status != 0:
        return [f"the next run ended with {ended.status}: {ended.output[-600:]}"]
    found = content(directory)
    problems = [
        f"{name}: {'differs' if name in found and name in expected else 'too much or missing'}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    return problems + [f"left: {name}" for name in leftovers(directory)]


def _forget(stage: Stage, project: Path) -> None:
    """Remove the output of ``stage`` and all that lies beside it."""
    directory = stage.directory(project)
    if directory.parent.is_dir():
        for path in directory.parent.iterdir():
            if path.name == directory.name or path.name.lstrip(".").startswith(
                f"{directory.name}."
            ):
                if path.is_dir():
                    shutil.rmtree(path)
                elif not path.name.endswith(".json"):
                    path.unlink()


def reference(project: Path, stage: Stage) -> tuple[dict[str, str], list[str], float]:
    """Content, operations and seconds of an undisturbed run of ``stage``."""
    changes = operations(project, stage)
    expected = content(stage.directory(project))
    _forget(stage, project)
    start = time.monotonic()
    again = run(project, stage.argv)
    seconds = time.monotonic() - start
    if again.status != 0 or content(stage.directory(project)) != expected:
        raise RuntimeError(f"{stage.name}: two undisturbed runs differ")
    return expected, changes, seconds


def spread(count: int, most: int | None) -> Iterator[int]:
    """Numbers below ``count``: all, or ``most`` of them, the last ones among them."""
    if most is None or count <= most:
        yield from range(count)
        return
    tail = most // 2
    yield from sorted(random.Random(0).sample(range(count - tail), most - tail))
    yield from range(count - tail, count)
