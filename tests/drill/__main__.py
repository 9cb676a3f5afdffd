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
from collections.abc import Iterator
from pathlib import Path

from pipeline import console
from tests.drill import kills, services
from tests.drill.kills import Trial
from tests.drill.project import STAGES, Stage, create, preload, run

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_REFUSED_EVERY = 3
"""Of the operations; a refusal is an exception, wherever it comes from."""
_LIMITS = (2_000, 20_000, 100_000)
TABLE_BEGINS, TABLE_ENDS = "<!-- drill -->\n", "<!-- end of drill -->\n"


def main() -> None:
    """Command line of the drill; the exit status is 1 if a trial has gone wrong."""
    parser = argparse.ArgumentParser(prog="make drill", description=__doc__)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="STAGE")
    parser.add_argument("--most", type=int, help="operations per stage and fault (default: all)")
    parser.add_argument("--random", type=int, default=5, help="random times per stage and signal")
    parser.add_argument("--jobs", type=int, default=2, help="stages drilled at the same time")
    parser.add_argument("--services", action="store_true", help="also Dask and Prefect")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is to be replaced")
    arguments = parser.parse_args()
    preload()
    chosen = [stage for stage in STAGES if stage.name in arguments.stages]
    trials = drill(chosen, arguments.most, arguments.random, arguments.jobs)
    if arguments.services:
        with tempfile.TemporaryDirectory(prefix="wam-drill-") as directory:
            trials += services.trials(Path(directory))
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


def drill(stages: list[Stage], most: int | None, times: int, jobs: int) -> list[Trial]:
    """All trials of ``stages``, each stage in a process and a copy of the project of its own."""
    with tempfile.TemporaryDirectory(prefix="wam-drill-") as directory:
        project = Path(directory) / "project"
        project.mkdir()
        create(project)
        for stage in STAGES:
            ended = run(project, stage.argv)
            if ended.status != 0:
                raise RuntimeError(f"{stage.name} fails undisturbed: {ended.output}")
        # Forked, as this process has imported what takes most of the time.
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        waiting = {
            stage.name: context.Process(
                target=_drill_stage, args=(project, stage, most, times, results)
            )
            for stage in stages
        }
        running: dict[str, multiprocessing.process.BaseProcess] = {}
        trials: list[Trial] = []
        while waiting or running:
            while waiting and len(running) < jobs:
                name = next(iter(waiting))
                running[name] = waiting.pop(name)
                running[name].start()
            name, found = results.get()
            trials += found
            if not found:
                running.pop(name).join()
                own = [trial for trial in trials if trial.stage == name]
                wrong = sum(bool(trial.problems) for trial in own)
                console.note(f"{name}: {len(own)} trials, {wrong} wrong")
        return trials


def _drill_stage(project, stage, most, times, results) -> None:  # type: ignore[no-untyped-def]
    """Put every trial into ``results``, and an empty list behind the last one."""
    own = project.with_name(stage.name.replace(" ", "-"))
    shutil.copytree(project, own)
    try:
        for trial in trials_of(own, stage, most, times):
            results.put((stage.name, [trial]))
    except Exception as error:  # noqa: BLE001 - the drill goes on with the other stages
        results.put((stage.name, [Trial(stage.name, "the drill itself", "", (repr(error),))]))
    shutil.rmtree(own)
    results.put((stage.name, []))


def trials_of(project: Path, stage: Stage, most: int | None, times: int) -> Iterator[Trial]:
    """Drill one stage of ``project``, in which all stages before it have run."""
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
