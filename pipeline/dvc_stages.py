"""The stages of ``dvc.yaml`` for one profile, and running them side by side.

DVC decides what is stale and records what was made: every stage is one ``dvc repro --single-item``.
What is decided here is only when: as soon as all stages that a stage depends on are up to date, and
it fits beside those that run.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import yaml

from pipeline.cores import available_cores
from wam.errors import WamError

DVC_FILE = Path("dvc.yaml")
_NOISE = (
    "To track the changes",
    "\tgit add",
    "To enable auto",
    "\tdvc config core.autostage",
    "Use `dvc push`",
)
STUDY_REPORT = "study_report"
_FRAMES = ("collect", "index", "convert")
"""The stages of a profile that a study works on."""
_MOST_JOBS = 2
"""There are two variants; what else could run beside them is short."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def stage_names() -> list[str]:
    """The stages that ``dvc.yaml`` has of every profile, each for all variants."""
    return list(_of_every_profile(yaml.safe_load(DVC_FILE.read_text())))


def stage_graph(profile: str) -> dict[str, frozenset[str]]:
    """The stages of ``profile`` in the order of ``dvc.yaml``, a topological one, each with those
    that make what it depends on. Raises WamError for a profile that DVC does not know."""
    document, matrix = _document()
    if profile not in matrix["profiles"]:
        raise WamError(
            f"{DVC_FILE}: vars: profiles does not list '{profile}'; with its name there, DVC knows "
            f"the stages of that profile, as it does those of {', '.join(matrix['profiles'])}"
        )
    outs: dict[str, list[str]] = {}
    graph = {}
    for name, deps, made_here in _expanded(document, profile, matrix["variants"]):
        makers = [maker for maker, made in outs.items() if set(made) & set(deps)]
        graph[name] = frozenset(makers)
        outs[name] = made_here
    return graph


def _document() -> tuple[dict[str, Any], dict[str, list[str]]]:
    """``dvc.yaml``, and what its matrices run over, by name."""
    document = yaml.safe_load(DVC_FILE.read_text())
    return document, {name: values for entry in document["vars"] for name, values in entry.items()}


def _absent_inputs(stage: str) -> Iterator[tuple[str, str]]:
    """What ``stage`` depends on and is not there, each with the stage of its profile that makes
    it."""
    document, matrix = _document()
    for profile in matrix["profiles"]:
        stages = list(_expanded(document, profile, matrix["variants"]))
        makers = {path: name for name, _, outs in stages for path in outs}
        for name, deps, _ in stages:
            if name == stage:
                absent = (path for path in deps if path in makers and not Path(path).exists())
                yield from ((path, makers[path]) for path in absent)


def _expanded(
    document: Mapping[str, Any], profile: str, variants: Sequence[str]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, dependencies and outputs of every stage of ``profile``, in the order of the file."""
    for stage, definition in _of_every_profile(document).items():
        for variant in variants if "variant" in definition["matrix"] else [None]:
            name = f"{stage}@{profile}" + (f"-{variant}" if variant else "")
            deps = _paths(definition.get("deps", []), profile, variant)
            yield name, deps, _paths(definition["outs"], profile, variant)


def chosen_stages(
    profile: str, only: str | None, *, has_tasks: bool = True
) -> dict[str, frozenset[str]]:
    """The graph of one stage, for all variants (``train_world_model``) or for one
    (``train_world_model@demo-wam``); of all that a profile with or without tasks has if it is None.

    Raises WamError where ``only`` names nothing.
    """
    graph = stage_graph(profile)
    if only is None:
        return graph if has_tasks else without_tasks(graph)
    chosen = {name for name in graph if only in (name, name.split("@")[0])}
    if not chosen:
        known = ", ".join(dict.fromkeys(name.split("@")[0] for name in graph))
        raise WamError(
            f"stage '{only}' is not in {DVC_FILE} for profile '{profile}'; known: {known}"
        )
    return {name: graph[name] & chosen for name in graph if name in chosen}


def study_graph(base: str, runs: Iterable[str]) -> dict[str, frozenset[str]]:
    """The stages of the study as those of :func:`stage_graph`: the frames of the profile ``base``,
    then ``runs``, of which none needs another, then what they say together."""
    profile = stage_graph(base)
    frames = [f"{name}@{base}" for name in _FRAMES]
    graph = {name: profile[name] for name in frames}
    graph |= {name: frozenset(frames) for name in runs}
    return graph | {STUDY_REPORT: frozenset(runs)}


def without_tasks(graph: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The stages of ``graph`` that need no annotations: all but ``extract`` and those behind it."""
    left_out: set[str] = set()
    for name, needed in graph.items():
        if name.startswith("extract@") or needed & left_out:
            left_out.add(name)
    return {name: needed for name, needed in graph.items() if name not in left_out}


def shares(jobs: int | None = None, most: int = _MOST_JOBS) -> tuple[int, int | None]:
    """How many stages run at a time (None: at most ``most``), and how many threads each takes.

    The threads are None where OMP_NUM_THREADS says it.
    """
    cores = available_cores()
    jobs = jobs or min(most, cores)
    return jobs, None if _THREADS[0] in os.environ else max(1, cores // jobs)


@contextlib.contextmanager
def turn(names: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """Waits for other runs of all that is named, a profile or the study, and makes them wait.

    ``--wait-for-lock`` does not: it waits for DVC itself, but not for a stage that another DVC
    runs, whose outputs are busy.
    """
    with contextlib.ExitStack() as stack:
        for name in names:
            path = Path(".dvc") / "tmp" / f"run-{name}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another run of '{name}' ...")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                say(f"{path}: no locks on this file system ({error.strerror})")
        yield


def run_in_order(
    graph: dict[str, frozenset[str]],
    jobs: int,
    run: Callable[[str], str | None],
    stop: Callable[[], None],
    fits: Callable[[str, Collection[str]], bool] = lambda stage, running: True,
) -> dict[str, str]:
    """Call ``run`` for every stage behind those that it needs, at most ``jobs`` at a time, and only
    where it ``fits`` beside those that run.

    ``run`` returns why a stage failed, or None. After a failure nothing new begins, what is under
    way is let finish; after an exception in here ``stop`` is to end it. Returns the failures by
    stage.
    """
    waiting, done = dict(graph), set[str]()
    failed: dict[str, str] = {}
    running: dict[Future[str | None], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or (waiting and not failed):
                ready = [name for name, needed in waiting.items() if needed <= done]
                for name in ready:
                    if not failed and len(running) < jobs and fits(name, running.values()):
                        del waiting[name]
                        running[pool.submit(run, name)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if (reason := future.result()) is None:
                        done.add(name)
                    else:
                        failed[name] = reason
        except BaseException:
            stop()
            raise
    return failed


def reproduce(
    stage: str,
    say: Callable[[str], None],
    *,
    threads: int | None = None,
    force: bool = False,
    processes: list[subprocess.Popen[str]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """Bring one stage up to date; why that failed, or None.

    ``say`` is called with every line of output. ``threads`` is what the stage's computations may
    use; None: what they find. With ``processes``, which it joins, the process is the first of a
    group of its own: signals from the terminal do not reach it, :func:`interrupt` does.
    ``environment`` is what the stage finds besides.
    """
    command = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    if force:
        command.append("--force")
    variables = {**dvc_environment(), "PYTHONUNBUFFERED": "1", **(environment or {})}
    if threads is not None:
        variables |= dict.fromkeys(_THREADS, str(threads))
    last = ""
    with subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=None if processes is None else 0,
    ) as process:
        if processes is not None:
            processes.append(process)
        assert process.stdout is not None
        for raw_line in process.stdout:
            line = raw_line.rstrip()
            if line and not line.startswith(_NOISE):
                say(line)
                last = line
    if not process.returncode:
        return None
    if absent := list(_absent_inputs(stage)):
        paths, makers = (", ".join(dict.fromkeys(names)) for names in zip(*absent, strict=True))
        return f"stage {stage} needs what is not there: {paths}; first: {makers}"
    message = f"stage {stage} failed with status {process.returncode}: {last}"
    if "is not a git repository" in last:
        message += "; 'dvc config --local core.no_scm true' lets DVC do without git"
    return message


def interrupt(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Ask what :func:`reproduce` has begun, and is not done with, to save its state and end."""
    for process in processes:
        # The number of one that has been waited for may be that of somebody else by now.
        if process.returncode is None:
            # DVC leaves the end to its stage, which saves its state.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)


def dvc_environment() -> dict[str, str]:
    """For DVC: its own and the stages' commands (wam, python) have to be those of this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}


def _of_every_profile(document: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions of the stages that each profile has."""
    stages = document["stages"].items()
    return {name: stage for name, stage in stages if "profile" in stage.get("matrix", {})}


def _paths(entries: list[Any], profile: str, variant: str | None) -> list[str]:
    """Paths of dependencies or outputs, with the matrix's values."""
    values = {"profile": profile, "variant": variant}
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
    return [re.sub(r"\$\{item\.(\w+)\}", lambda key: str(values[key[1]]), name) for name in names]
