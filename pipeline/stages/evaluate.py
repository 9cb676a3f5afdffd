"""Success rates in the simulator, from the held-out start states (docs/algorithm.md 7.1).

``controls`` are the scripted expert, which bounds what is possible, and an arm that holds still,
which should succeed nowhere. A variant's policies are rolled out before (bc) and after (ppo)
fine-tuning, one roll-out per start and seed, with the same random numbers for both variants.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout, store_path
from pipeline.artifacts.manifests import fingerprint, read_json, read_manifest, write_json
from pipeline.artifacts.parts import counted
from pipeline.evaluation.jobs import AFTERMATH, EvaluationJob, episodes
from pipeline.evaluation.results import FILMED, FINETUNED, POLICY_STAGES, agreement_of
from pipeline.evaluation.simulator import simulator_for, warn_of_impossible
from pipeline.evaluation.statistics import wilson
from pipeline.evaluation.worlds import WORLD_NAMES, checked, moved
from pipeline.latents.demonstrations import Start, load_demos
from pipeline.params import Profile
from pipeline.pictures import clips
from pipeline.store.open import open_store
from pipeline.workers import crew
from wam.envs.factory import make_env
from wam.envs.pool import EnvPool
from wam.envs.settings import SimulatorConfig, World, require_packages
from wam.errors import WamError
from wam.paths import expanded

_CLIP_STATIC, _CLIP_GRIPPER = 200, 84
_CLIPPED = ("expert", "bc", *FINETUNED.values())

Starts = Mapping[str, Sequence[Start]]


def run(
    profile: Profile,
    layout: Layout,
    name: str,
    world: World | None = None,
    assets: Path | None = None,
) -> None:
    """Evaluate the ``controls`` or the policies of the variant called ``name``.

    Writes ``rollouts.json``, ``summary.json``, ``metrics.json`` and clips to
    ``layout.evaluation(name)``; with ``world`` to ``layout.transfer(world, name)``, from that
    world, see :func:`moved`. Raises WamError without the simulator or without an input artifact.
    """
    if assets is not None and world is None:
        raise WamError("--assets: needs --in; the profile's own scene is env.assets")
    output = layout.evaluation(name)
    if world is not None:
        output = layout.transfer(world, name)
        profile = replace(profile, env=moved(profile.env, world, assets))
    require_packages(profile.env.backend, "evaluation runs in the simulator")
    inputs = {"demos": fingerprint(layout.demos, "extract")}
    if name != "controls":
        inputs["world_model"] = fingerprint(layout.world_model(name), "train-world-model")
        inputs["policy"] = fingerprint(layout.policy(name), "train-policy")
        inputs["reward"] = fingerprint(layout.reward(name), "train-reward")
        inputs["finetune"] = fingerprint(layout.finetune(name), "finetune")
    data = open_store(store_path(layout.store, "validation")).attrs
    simulator = simulator_for(profile, layout.store, data)
    origin = simulator.description()
    where = {
        "scene": simulator.scene,
        "differs_from_data": checked(data, simulator, profile.env),
    }
    starts = _starts(profile, layout)
    jobs = _jobs(profile, layout, name)
    params = {
        "evaluate": asdict(profile.evaluate),
        "env": simulator,
        "jobs": jobs,
        "filtering": profile.features.filtering._asdict(),
        "filmed": FILMED,
        "aftermath": AFTERMATH if name != "controls" else 0,
    }

    def make(target: Build) -> None:
        directory = target.directory
        missing = [job for job in jobs if not target.is_finished(_part_path(directory, job).stem)]
        if missing:
            for job, part in _roll_out(profile, layout, simulator, missing, starts):
                path = _part_path(directory, job)
                write_json(path, part)
                target.finish(path.stem, [path])
        parts = {job: read_json(_part_path(directory, job)) for job in jobs}
        if profile.evaluate.clips:
            _film(directory, simulator, profile.env.workers, parts, starts)
        summary = [
            {**summarise(job, part["rollouts"]), **origin, **where} for job, part in parts.items()
        ]
        rollouts = [rollout for part in parts.values() for rollout in part["rollouts"]]
        write_json(directory / "summary.json", summary)
        write_json(directory / "rollouts.json", rollouts)
        write_json(directory / "metrics.json", _metrics(summary))
        devices = sorted({part["device"] for part in parts.values()})
        target.manifest.update(origin, **where, device=", ".join(devices))

    build(
        output,
        make,
        stage=f"evaluate-{name}",
        params=params,
        inputs=inputs,
        growing=["jobs", "evaluate.clips"],
    )
    summary, rollouts = (read_json(output / file) for file in ("summary.json", "rollouts.json"))
    _show(f"{name} in {WORLD_NAMES[world]}" if world else name, summary)
    successes = {
        stage: [row["success"] for row in rollouts if row["stage"] == stage]
        for stage in dict.fromkeys(job.stage for job in jobs)
    }
    rates = ", ".join(
        f"{POLICY_STAGES[stage]} {sum(own)}/{len(own)}" for stage, own in successes.items()
    )
    console.done(f"evaluate {name}", f"{rates} · {output}")


def summarise(job: EvaluationJob, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of ``summary.json``."""
    successes = sum(rollout["success"] for rollout in rollouts)
    rate = wilson(successes, len(rollouts))
    return {
        **job._asdict(),
        "successes": successes,
        "episodes": len(rollouts),
        "success_rate": rate.value,
        "ci_low": rate.low,
        "ci_high": rate.high,
        **(agreement._asdict() if (agreement := agreement_of(rollouts)) else {}),
    }


def _jobs(profile: Profile, layout: Layout, name: str) -> list[EvaluationJob]:
    passes: list[tuple[str | None, str, int]]
    if name == "controls":
        passes = [(None, stage, profile.evaluate.seed) for stage in ("expert", "zero")]
    else:
        passes = [(name, "bc", profile.policy.seed)]
        made = read_manifest(layout.finetune(name), "finetune")
        tuned = FINETUNED[made.get("environment", "world_model")]
        passes += [(name, tuned, seed) for seed in profile.finetune.seeds]
    return [
        EvaluationJob(variant, task, stage, seed)
        for task in profile.tasks
        for variant, stage, seed in passes
    ]


def _part_path(directory: Path, job: EvaluationJob) -> Path:
    return directory / "parts" / f"{job.name}.json"


def _starts(profile: Profile, layout: Layout) -> Starts:
    """The held-out starts of every task. Raises WamError if a task has none."""
    demos = load_demos(layout.demos)
    starts = {}
    for task in profile.tasks:
        starts[task] = demos[task].starts[: profile.evaluate.max_episodes]
        if not starts[task]:
            raise WamError(
                f"{layout.demos}: no held-out start of {task}; the validation split needs at least "
                "one annotation of each task (more collect.validation_frames, or fewer tasks)"
            )
        states = np.array([start.scene_obs for start in starts[task]])
        frame_ids = [start.frame_id for start in starts[task]]
        warn_of_impossible(task, states, frame_ids, "held-out starts", "counted")
    return starts


def _roll_out(
    profile: Profile,
    layout: Layout,
    simulator: SimulatorConfig,
    jobs: Sequence[EvaluationJob],
    starts: Starts,
) -> Iterator[tuple[EvaluationJob, dict[str, Any]]]:
    """Every job with its part, in any order."""
    # Imported here: torch, which the workers and a run that lacks only its clips do without.
    from pipeline.evaluation.bench import Bench, Work, roll_out_alone
    from wam.device import resolve

    variant = jobs[0].variant
    work = [Work(job, starts[job.task]) for job in jobs]
    total = sum(len(one.starts) for one in work)
    on_gpu = resolve(profile.device).type == "cuda"
    with (
        crew(profile.parallel, len(jobs), on_gpu=on_gpu, cores_each=profile.env.workers) as run_all,
        console.progress(f"evaluate {variant or 'controls'}", total, "episodes") as advance,
    ):
        tell = counted(advance, {one.name: len(one.starts) for one in work})
        if run_all.in_process:
            with Bench(profile, layout, simulator, variant) as bench:
                yield from run_all(bench.roll_out, work, tell)
        else:
            # Workers may run in another directory.
            place, assets = layout.absolute(), simulator.assets
            if assets is not None:
                assets = str(expanded(assets, "env.assets").absolute())
            own = replace(simulator, assets=assets)
            alone = partial(roll_out_alone, profile, place, own, variant)
            yield from run_all(alone, work, tell)


def _film(
    directory: Path,
    simulator: SimulatorConfig,
    workers: int,
    parts: Mapping[EvaluationJob, dict[str, Any]],
    starts: Starts,
) -> None:
    """Clips of every task and stage, first seed, that are not there yet.

    The recorded actions are repeated with larger images; a fresh simulator gives the same states.
    """
    wanted: dict[Path, tuple[EvaluationJob, int]] = {}
    first_seeds = {(job.task, job.stage): job for job in reversed(list(parts))}
    for job in first_seeds.values():
        for row, suffix in zip(map(int, parts[job]["actions"]), FILMED.values(), strict=False):
            path = directory / f"{job.task}-{job.stage}{suffix}.webp"
            if job.stage in _CLIPPED and not path.is_file():
                wanted[path] = job, row
    if not wanted:
        return
    large = replace(simulator, static_size=_CLIP_STATIC, gripper_size=_CLIP_GRIPPER)
    takes = [
        clips.Take(
            path,
            f"{job.task.replace('_', ' ')} · {job.label}",
            episodes(job.task, 0, starts[job.task])[row],
            np.array(parts[job]["actions"][str(row)]),
            parts[job]["rollouts"][row]["success"],
        )
        for path, (job, row) in wanted.items()
    ]
    with (
        EnvPool(partial(make_env, large), workers, fresh_processes=large.one_per_process) as pool,
        console.progress("roll-out clips", len(takes), "clips") as advance,
    ):
        for take in clips.film(pool, takes):
            advance(note=take.path.name)


def _metrics(summary: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Success rates pooled over seeds: stage -> task -> rate, for ``dvc metrics``."""
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for row in summary:
        count = counts[row["stage"]][row["task"]]
        count[0] += row["successes"]
        count[1] += row["episodes"]
    rates = {
        stage: {task: k / n for task, (k, n) in tasks.items()} for stage, tasks in counts.items()
    }
    return {
        stage: {**tasks, "average": sum(tasks.values()) / len(tasks)}
        for stage, tasks in rates.items()
    }


def _show(name: str, summary: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"success from the held-out starts: {name}", title_justify="left")
    for column in ("task", "policy", "seed"):
        table.add_column(column)
    for column in ("successes", "rate", "95 % interval"):
        table.add_column(column, justify="right")
    previous = None
    for row in summary:
        if previous not in (None, row["task"]):
            table.add_section()
        table.add_row(
            "" if previous == row["task"] else row["task"],
            POLICY_STAGES[row["stage"]],
            str(row["seed"]),
            f"{row['successes']}/{row['episodes']}",
            f"{100 * row['success_rate']:.1f} %",
            f"{100 * row['ci_low']:.0f}-{100 * row['ci_high']:.0f} %",
        )
        previous = row["task"]
    console.console.print(table)
