"""How fast the simulator is: control steps per second on one core, and with two workers.

The arm moves about over the table with its blocks, touching nothing; ``_tasks`` is the scripted
expert of each of the eight tasks instead, whose contacts cost the engine more. Actions are recorded
first and then repeated. Rates are those of the fastest round, which other work on the machine
disturbs least; the median is reported beside it. With ``--assets`` CALVIN's own scene is measured
in turn with the embedded one.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from pipeline import console
from turns import options
from wam.config import TASKS
from wam.envs.simulator.quiet import quiet_import

with quiet_import():
    from wam.envs.episode import Episode
    from wam.envs.play.experts import Expert
    from wam.envs.play.starts import random_start
    from wam.envs.pool import EnvPool
    from wam.envs.simulator.play_table import PlayTableEnv

_STEPS = 32
_POOL_EPISODES = 8
_POOL_STEPS = 16


class Script(NamedTuple):
    """An episode to repeat."""

    reset: dict[str, np.ndarray]
    actions: list[np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    experts, free = record(arguments.scene)
    source: dict[str, Any] = {"scene": arguments.scene, "renderer": "tiny"}
    sizes = {"static_size": 64, "gripper_size": 64}
    small, state = {**source, **sizes}, {**source, "cameras": False}
    kinds: dict[str, Kind] = {
        "cameras_64": Kind(partial(PlayTableEnv, **small), free),
        "cameras_200_84": Kind(partial(PlayTableEnv, **source), free),
        "state": Kind(partial(PlayTableEnv, **state), free),
        "state_tasks": Kind(partial(PlayTableEnv, **state), experts),
    }
    if arguments.assets is not None:
        kinds |= {
            f"official_{name}": kind._replace(make=partial(kind.make, assets=arguments.assets))
            for name, kind in kinds.items()
        }
    rates = single_process(kinds, arguments.rounds)
    rates |= pooled(kinds["cameras_64"].make, experts, arguments.rounds)
    result: dict[str, Any] = {}
    for name, found in rates.items():
        result[f"steps_per_s_{name}"] = round(max(found), 1)
        result[f"steps_per_s_{name}_median"] = round(statistics.median(found), 1)
    pairs = zip(rates["pool_2_workers"], rates["pool_1_worker"], strict=True)
    result["scaling_2_workers"] = round(statistics.median(two / one for two, one in pairs), 2)
    result |= creation(kinds["state"].make)
    result["processor"] = processor()
    if arguments.json:
        console.console.print(json.dumps(result))
        return
    table = Table(title=f"simulator, scene {arguments.scene}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name, str(value))
    console.console.print(table)


class Kind(NamedTuple):
    """What is measured: a kind of environment at work."""

    make: Callable[..., PlayTableEnv]
    scripts: Sequence[Script]


def record(scene: str) -> tuple[list[Script], list[Script]]:
    """The expert of every task from one random start, and smooth motion in the air."""
    env = PlayTableEnv(scene, cameras=False)
    experts, free = [], []
    try:
        for index, task in enumerate(TASKS):
            rng = np.random.default_rng(index)
            reset = random_start(env, rng, task)
            observation, _ = env.reset(options=dict(reset))
            expert = Expert(task, rng, scene=scene)
            actions = []
            for _ in range(_STEPS):
                actions.append(expert.act(observation, env.target_pose))
                observation = env.step(actions[-1])[0]
            experts.append(Script(reset, actions))
            # Away from the cabinet and up first, so that nothing is in the way.
            phases = np.array([rng.uniform(0, 2 * np.pi), np.pi, 0, *rng.uniform(0, 2 * np.pi, 3)])
            turns = np.arange(_STEPS)[:, None] / _STEPS * 2 * np.pi
            motions = 0.4 * np.sin(turns + phases)
            free.append(Script(reset, [np.append(motion, 1.0) for motion in motions]))
    finally:
        env.close()
    return experts, free


def single_process(kinds: dict[str, Kind], rounds: int) -> dict[str, list[float]]:
    """Control steps per second of every kind; they take turns."""
    envs = {name: kind.make() for name, kind in kinds.items()}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    with console.progress("one process", rounds * len(kinds), "rounds") as advance:
        for _ in range(rounds):
            for name, env in envs.items():
                elapsed, scripts = 0.0, kinds[name].scripts
                for script in scripts:
                    env.reset(options=dict(script.reset))
                    start = time.perf_counter()
                    for action in script.actions:
                        env.step(action)
                    elapsed += time.perf_counter() - start
                rates[name].append(len(scripts) * _STEPS / elapsed)
                advance()
    for env in envs.values():
        env.close()
    return rates


def pooled(
    make_env: Callable[[], PlayTableEnv], scripts: Sequence[Script], rounds: int
) -> dict[str, list[float]]:
    """Steps per second of a whole pool that one or two workers share."""
    # An arm that only follows: an episode that succeeds would leave its worker with less to do.
    still = [np.array([0, 0, np.sin(step / 5), 0, 0, 0, 1.0]) for step in range(_POOL_STEPS)]
    actions = np.tile(np.array(still), (_POOL_EPISODES, 1, 1))
    episodes = [
        Episode("turn_on_lightbulb", **{**scripts[0].reset, "seed": index})
        for index in range(_POOL_EPISODES)
    ]
    rates: dict[str, list[float]] = {"pool_1_worker": [], "pool_2_workers": []}
    with (
        EnvPool(make_env, 1) as one,
        EnvPool(make_env, 2) as two,
        console.progress("pool", 2 * rounds, "rounds") as advance,
    ):
        one.start(episodes)
        two.start(episodes)
        for _ in range(rounds):
            for pool, found in zip((one, two), rates.values(), strict=True):
                start = time.perf_counter()
                executed = pool.step(actions).steps.sum()
                found.append(float(executed) / (time.perf_counter() - start))
                advance()
    return rates


def creation(make_env: Callable[[], PlayTableEnv]) -> dict[str, float]:
    """Milliseconds to make an environment, and to reset one."""
    start = time.perf_counter()
    env = make_env()
    made = time.perf_counter()
    for seed in range(10):
        env.reset(seed=seed)
    end = time.perf_counter()
    env.close()
    return {
        "make_ms": round(1000 * (made - start), 1),
        "reset_ms": round(100 * (end - made), 1),
    }


def processor() -> str:
    """Name of the processor, as the operating system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--scene", default="D", choices=("A", "B", "C", "D"))
    parser.add_argument(
        "--assets", type=Path, metavar="DIR", help="also measure CALVIN's scene from these assets"
    )
    return parser


if __name__ == "__main__":
    main()
