"""How often the scripted experts solve each task from random starts.

One row per scene and task: how many starts were solved within 64 control steps with Wilson's 95 %
interval, the median and the largest number of steps that took, and the seeds of the failures.
A start is a function of scene, task and seed alone, so
``--scene D --task open_drawer --seed 17 --starts 1`` repeats the one that failed as seed 17.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.console import console
from pipeline.evaluation.statistics import wilson
from wam import tasks
from wam.config import TASKS
from wam.envs.play.experts import Expert, Manner
from wam.envs.play.session import random_manner
from wam.envs.play.starts import random_start
from wam.envs.scene_files.geometry import SCENES
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError
from wam.reliability.spawn import end_with_parent, shielded

MAX_STEPS = 64
_SEEDS_PER_JOB = 20


@dataclass(frozen=True)
class Job:
    """Attempts at one task from the starts of consecutive seeds."""

    scene: str
    task: str
    seeds: range
    noise: float | None
    assets: Path | None


@dataclass(frozen=True)
class Row:
    """What was measured of one task in one scene."""

    scene: str
    task: str
    starts: int
    solved: int
    low: float
    """Of the success rate, as ``high``."""
    high: float
    median_steps: float | None
    max_steps: int | None
    failed_seeds: list[int]


def main() -> None:
    args = _parser().parse_args()
    rows = []
    if not args.json:
        console.print(f"scene task{'solved':>23}   95 % of starts   steps (max)  failed seeds")
    for row in measure(args):
        rows.append(row)
        if not args.json:
            console.print(_line(row))
    if args.json:
        console.print_json(json.dumps({"rows": [asdict(row) for row in rows]}))


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """One row after the other, in the order of the scenes and tasks asked for."""
    seeds = range(args.seed, args.seed + args.starts)
    jobs = [
        Job(scene, task, seeds[first : first + _SEEDS_PER_JOB], args.noise, args.assets)
        for scene in args.scene
        for task in args.task
        for first in range(0, len(seeds), _SEEDS_PER_JOB)
    ]
    # pybullet keeps global state: fork would share it.
    context = multiprocessing.get_context("spawn")
    with shielded():
        pool = context.Pool(min(args.workers, len(jobs)), initializer=end_with_parent)
    with pool:
        done = zip(jobs, pool.imap(attempt, jobs), strict=True)
        for (scene, task), group in groupby(done, lambda pair: (pair[0].scene, pair[0].task)):
            steps = [count for _, counts in group for count in counts]
            yield summary(scene, task, seeds, steps)


def attempt(job: Job) -> list[int | None]:
    """The control steps that each seed's start took, None where the task was not solved."""
    env = _env(job.scene, job.assets)
    return [solve(env, job.task, seed, job.noise) for seed in job.seeds]


def solve(env: PlayTableEnv, task: str, seed: int, noise: float | None) -> int | None:
    """Control steps until ``task`` is done from the start of ``seed``, None beyond 64."""
    rng = np.random.default_rng((seed, TASKS.index(task)))
    observation, _ = env.reset(options=random_start(env, rng, task))
    start = observation["scene_obs"]
    manner = Manner() if noise is None else random_manner(rng, noise)
    expert = Expert(task, rng, manner, env.scene)
    for step in range(1, MAX_STEPS + 1):
        observation = env.step(expert.act(observation, env.target_pose))[0]
        if tasks.achieved(task, start, observation["scene_obs"]):
            return step
    return None


def summary(scene: str, task: str, seeds: range, steps: list[int | None]) -> Row:
    """``steps`` of all ``seeds`` as one row."""
    solved = [count for count in steps if count is not None]
    _, low, high = wilson(len(solved), len(steps))
    return Row(
        scene=scene,
        task=task,
        starts=len(steps),
        solved=len(solved),
        low=low,
        high=high,
        median_steps=float(np.median(solved)) if solved else None,
        max_steps=max(solved, default=None),
        failed_seeds=[seed for seed, count in zip(seeds, steps, strict=True) if count is None],
    )


@cache
def _env(scene: str, assets: Path | None) -> PlayTableEnv:
    return PlayTableEnv(scene, assets=assets, cameras=False)


def _line(row: Row) -> str:
    share = f"{row.solved}/{row.starts}"
    interval = f"{row.low:.1%} - {row.high:.1%}"
    steps = f"{row.median_steps:.0f} ({row.max_steps})" if row.solved else "-"
    seeds = " ".join(map(str, row.failed_seeds))
    return f"{row.scene:6}{row.task:20}{share:>7}   {interval:15}  {steps:>11}  {seeds}".rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", nargs="+", choices=SCENES, default=["D"])
    parser.add_argument(
        "--task", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="(all)"
    )
    parser.add_argument(
        "--assets", type=Path, metavar="DIR", help="CALVIN's own scene files (default: embedded)"
    )
    parser.add_argument("--starts", type=_positive, default=200, help="per task (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first start (default: 0)")
    parser.add_argument(
        "--noise", type=float, help="act in the manners of play, with this noise (demo: 0.1)"
    )
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count() or 1, help="(default: every core)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    try:
        main()
    except WamError as error:
        sys.exit(f"experts: {error}")
