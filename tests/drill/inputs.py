"""Bad raw data and hostile files: each ends in a sentence that names it, and does nothing else.

A case damages a copy of the tiny data set in one way; the commands that read what was damaged are
run on it. All is well if a command ends with status 1 and says the expected word, or ends with 0
where nothing that is needed was damaged; without a traceback, more than 1 GB or a minute, and
without a file outside of the project.
"""

import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline import console
from tests.drill import bad_data, hostile_files
from tests.drill.kills import Trial
from tests.drill.project import PROFILE, create, preload, run
from tests.drill.raw_damage import Fine

_MOST_BYTES = 1 << 30
"""Of address space beyond what the imports take."""
_MOST_S = 60
CANARY = "canary"
"""In the working directory: made by payloads that are executed."""
_OUTSIDE = "outside.txt"
_FINE = ("/dev/", "/proc/")


@dataclass(frozen=True)
class Case:
    """One way to damage a data set."""

    name: str
    kind: str
    damage: Callable[[Path], None]
    """Of the root of the data set."""
    says: dict[str, str]
    """By the command that is run, a pattern of what it must say; :class:`Fine` if it ends well."""


def cases() -> list[Case]:
    """All of them."""
    return [
        Case(name, kind, damage, says)
        for kind, listed in (
            ("bad input", bad_data.CASES),
            ("hostile payload", hostile_files.CASES),
        )
        for name, (damage, says) in listed.items()
    ]


def trials(project: Path, chosen: list[Case] | None = None) -> Iterator[Trial]:
    """Try ``chosen``, or all cases, in ``project``, whose raw frames are in ``project/raw``."""
    sound, damaged = project / "sound", project / "raw"
    damaged.rename(sound)
    params = project / "params.yaml"
    profiles = yaml.safe_load(params.read_text())
    profiles[PROFILE]["raw"]["path"] = str(damaged)
    params.write_text(yaml.safe_dump(profiles))
    data = project / "data"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(sound, damaged)
    for command in ("index", "convert"):
        ended = run(project, [command, "--profile", PROFILE])
        if ended.status != 0:
            raise RuntimeError(f"{command} fails undisturbed: {ended.output}")
    indexed = Path(shutil.copytree(data, project / "indexed"))
    for case in cases() if chosen is None else chosen:
        for command, word in case.says.items():
            for directory, original in ((damaged, sound), (data, indexed)):
                shutil.rmtree(directory)
                shutil.copytree(original, directory)
            case.damage(damaged)
            yield _trial(project, case, command, word)


def _trial(project: Path, case: Case, command: str, word: str) -> Trial:
    if command == "inspect":
        argv = [["inspect", str(project / "raw")]]
    else:
        # The store is made again, of the index as it was; extract reads what index has read.
        if command == "convert":
            shutil.rmtree(project / "data" / PROFILE / "store")
        stages = ["index", "convert", "extract"] if command == "extract" else [command]
        argv = [[stage, "--profile", PROFILE] for stage in stages]
    for arguments in argv:
        ended = run(project, arguments, lambda: _confine(project))
        if ended.status != 0:
            break
    expected = 0 if isinstance(word, Fine) else 1
    problems = []
    if ended.has_traceback:
        problems.append(f"traceback: {ended.output[-600:]}")
    if ended.status == -signal.SIGALRM:
        problems.append(f"took longer than {_MOST_S} s")
    elif ended.status != expected:
        problems.append(f"ended with {ended.status}, not {expected}: {ended.output[-300:]}")
    if not re.search(word, ended.output):
        problems.append(f"does not say {word!r}: {ended.output[-300:]}")
    for name in (CANARY, _OUTSIDE):
        path = project / name
        if path.exists():
            problems.append(f"{name}: {path.read_text()}")
            path.unlink()
    return Trial(command, case.kind, case.name, tuple(problems))


def _confine(project: Path) -> None:
    """From now on: little memory, little time, and a note of what is written elsewhere or run."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.alarm(_MOST_S)
    root = os.fsencode(project)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        text = ""
        if event == "open" and isinstance(arguments[0], str | bytes):
            flags = arguments[2]
            path = os.path.realpath(os.fsencode(arguments[0]))
            is_fine = path.startswith((root, *map(os.fsencode, _FINE)))
            if isinstance(flags, int) and flags & (os.O_CREAT | os.O_TRUNC) and not is_fine:
                text = f"{event} {os.fsdecode(path)}"
        elif event in ("os.system", "os.exec"):
            text = f"{event} {arguments[0]!r}"
        if text:
            with (project / _OUTSIDE).open("a") as file:
                file.write(f"{text}\n")

    sys.addaudithook(look)


def main() -> None:
    """Try every ``argv[1]``-th case; the exit status is 1 if one goes wrong."""
    preload()
    with tempfile.TemporaryDirectory(prefix="wam-inputs-") as directory:
        project = Path(directory) / "project"
        project.mkdir()
        create(project)
        wrong = [trial for trial in trials(project, cases()[:: int(sys.argv[1])]) if trial.problems]
    for trial in wrong:
        console.warn(f"{trial.stage}, {trial.when}: {'; '.join(trial.problems)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
