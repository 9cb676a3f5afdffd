"""``make drill``: faults at every point of every stage, and what becomes of them, as a table.

Each trial is a real run of a stage that is disturbed, and the run after it. A trial has gone well
if that ends with status 0 and the bytes of an undisturbed run, and leaves nothing behind; if the
disturbed run could still speak, it has said what is wrong in a sentence, without a traceback.
"""

import argparse
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline import console
from tests.drill import damage, inputs, kills, services, settings
from tests.drill.kills import Trial
from tests.drill.project import STAGES, Stage, create, preload, run

_OTHERS: dict[str, Callable[[Path], Iterator[Trial]]] = {
    "inputs": inputs.trials,
    "settings": settings.trials,
    "damage": damage.trials,
    "services": services.trials,
}
PARTS = ("kills", *_OTHERS)
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_REFUSED_EVERY = 3
"""Of the operations; a refusal is an exception, wherever it comes from."""
_LIMITS = (2_000, 20_000, 100_000)
TABLE_BEGINS, TABLE_ENDS = "<!-- drill -->\n", "<!-- end of drill -->\n"


def main() -> None:
    """Command line of the drill; the exit status is 1 if a trial has gone wrong."""
    parser = argparse.ArgumentParser(prog="make drill", description=__doc__)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="STAGE")
    parser.add_argument("--most", type=int, help="operations per stage and fault (default: all)")
    parser.add_argument("--random", type=int, default=5, help="random times per stage and signal")
    parser.add_argument("--jobs", type=int, default=2, help="processes that drill at the same time")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is to be replaced")
    arguments = parser.parse_args()
    preload()
    with tempfile.TemporaryDirectory(prefix="wam-drill-") as directory:
        project = Path(directory) / "project"
        project.mkdir()
        create(project)
        for stage in STAGES:
            ended = run(project, stage.argv)
            if ended.status != 0:
                raise RuntimeError(f"{stage.name} fails undisturbed: {ended.output}")
        jobs: dict[str, Callable[[Path], Iterator[Trial]]] = {}
        if "kills" in arguments.parts:
            for stage in STAGES:
                if stage.name in arguments.stages:
                    options = (stage, arguments.most, arguments.random)
                    jobs[stage.name] = partial(trials_of, *options)
        jobs |= {name: job for name, job in _OTHERS.items() if name in arguments.parts}
        trials = drill(project, jobs, arguments.jobs)
    for trial in trials:
        for problem in trial.problems:
            console.warn(f"{trial.stage}, {trial.kind}, {trial.when}: {problem}")
    text = table(trials)
    console.note(text)
    if arguments.write:
        before, _, rest = arguments.write.read_text().partition(TABLE_BEGINS)
        _, _, after = rest.partition(TABLE_ENDS)
        arguments.write.write_text(f"{before}{TABLE_BEGINS}\n{text}\n{TABLE_ENDS}{after}")
    sys.exit(any(trial.problems for trial in trials))


def drill(
    project: Path, jobs: dict[str, Callable[[Path], Iterator[Trial]]], most: int
) -> list[Trial]:
    """The trials of all ``jobs``, ``most`` at a time, each in a copy of ``project`` of its own."""
    # Forked, as this process has imported what takes most of the time.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    waiting = {
        name: context.Process(target=_drill, args=(project, name, job, results))
        for name, job in jobs.items()
    }
    running: dict[str, multiprocessing.process.BaseProcess] = {}
    trials: list[Trial] = []
    counts: Counter[str] = Counter()
    while waiting or running:
        while waiting and len(running) < most:
            name = next(iter(waiting))
            running[name] = waiting.pop(name)
            running[name].start()
        name, found = results.get()
        trials += found
        counts[name] += len(found)
        if not found:
            running.pop(name).join()
            console.note(f"{name}: {counts[name]} trials")
    return trials


def _drill(project, name, job, results) -> None:  # type: ignore[no-untyped-def]
    """Put every trial into ``results``, and an empty list behind the last one."""
    own = project.with_name(name.replace(" ", "-"))
    shutil.copytree(project, own)
    try:
        for trial in job(own):
            results.put((name, [trial]))
    except Exception as error:  # noqa: BLE001 - the drill goes on with the others
        results.put((name, [Trial(name, "the drill itself", "", (repr(error),))]))
    shutil.rmtree(own)
    results.put((name, []))


def trials_of(stage: Stage, most: int | None, times: int, project: Path) -> Iterator[Trial]:
    """Kills and refusals in one stage of ``project``, in which all stages before it have run."""
    expected, changes, seconds = kills.reference(project, stage)
    for number in kills.spread(len(changes), most):
        yield kills.killed_at(project, stage, number, expected)
        if number % _REFUSED_EVERY == 0:
            yield kills.refused_at(project, stage, number, expected)
    for num_bytes in _LIMITS:
        yield kills.limited(project, stage, num_bytes, expected)
    chance = random.Random(stage.name)
    for signum in _SIGNALS:
        for _ in range(times):
            after = chance.uniform(0.0, seconds)
            yield kills.killed_sometime(project, stage, signum, after, expected)


def table(trials: list[Trial]) -> str:
    """Trials and those that went well, by stage and kind of fault, in Markdown."""
    kinds = list(dict.fromkeys(trial.kind for trial in trials))
    total: dict[str, Counter[str]] = defaultdict(Counter)
    well: dict[str, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        for row in (trial.stage, "all"):
            total[row][trial.kind] += 1
            well[row][trial.kind] += not trial.problems
    lines = [["stage", *kinds], ["---", *["---:"] * len(kinds)]]
    for stage in [*dict.fromkeys(trial.stage for trial in trials), "all"]:
        cells = [f"{well[stage][k]}/{total[stage][k]}" if total[stage][k] else "" for k in kinds]
        lines.append([stage, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
