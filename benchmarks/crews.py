"""Per-task stages with one and with more workers: how time grows with tasks and shrinks with cores.

Cloning and PPO in imagination at the sizes of a profile, on made-up features: what they learn does
not matter here. ``seconds_per_part`` is what one task (and seed) takes of one core;
``ratio_workers`` is the time of one worker by that of ``--workers``, with the start of the cluster
(``cluster_s``); both crews have to leave the same bytes.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.turns import PARAMS, options, ratio
from pipeline import console
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.manifests import MANIFEST, file_digest
from pipeline.latents.features import SplitFeatures, TaskFeatures, save_features
from pipeline.params import Profile, load_profile
from pipeline.stages import finetune, train_policy, train_reward
from pipeline.workers import crew
from wam.actions import executable
from wam.config import TASKS
from wam.proprio import ProprioNormalizer
from wam.weights import save_model
from wam.world_model.load import world_model_config
from wam.world_model.model import WorldModel

VARIANT = "wam"
FRAMES = 40
STAGES = {"rewards": train_reward, "policies": train_policy, "PPO": finetune}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parsed = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        result = compare(_profile(parsed), Path(place), parsed.workers, parsed.rounds)
    console.figures(result, as_json=parsed.json)


def compare(profile: Profile, place: Path, workers: int, rounds: int) -> dict[str, Any]:
    """The figures of the module's description; Raises RuntimeError where the crews differ."""
    base = _inputs(profile, Layout(place / "inputs"))
    start = time.perf_counter()
    with crew(replace(profile.parallel, workers=workers), workers, on_gpu=False):
        cluster_s = time.perf_counter() - start
    times: dict[int, dict[str, list[float]]] = {
        count: {name: [] for name in STAGES} for count in (1, workers)
    }
    digests = set()
    for turn in range(rounds):
        for count in times:
            layout = Layout(Path(shutil.copytree(base.root, place / f"{turn}-{count}")))
            own = replace(profile, parallel=replace(profile.parallel, workers=count))
            for name, stage in STAGES.items():
                start = time.perf_counter()
                stage.run(own, layout, VARIANT)
                times[count][name].append(time.perf_counter() - start)
            digests.add(_digest(layout))
    if len(digests) != 1:
        raise RuntimeError(f"{len(digests)} results where one was expected")
    seconds = {
        count: {name: statistics.median(found) for name, found in own.items()}
        for count, own in times.items()
    }
    one, more = seconds[1], seconds[workers]
    return {
        "tasks": len(profile.tasks),
        "seeds": len(profile.finetune.seeds),
        "workers": workers,
        "cluster_s": round(cluster_s, 1),
        **{f"{name}_s": round(value, 1) for name, value in one.items()},
        **{f"{name}_s_{workers}_workers": round(value, 1) for name, value in more.items()},
        "seconds_per_part": {
            name: round(value / len(profile.tasks) / _seeds(name, profile), 1)
            for name, value in one.items()
        },
        "ratio_workers": ratio(sum(one.values()), sum(more.values())),
        **{f"ratio_{name}": ratio(one[name], more[name]) for name in STAGES},
    }


def _seeds(stage: str, profile: Profile) -> int:
    return len(profile.finetune.seeds) if stage == "PPO" else 1


def _parser() -> argparse.ArgumentParser:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--profile", default="demo", help="sizes and settings (default: demo)")
    parser.add_argument("--tasks", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--seeds", type=int, default=1, help="of PPO (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="against one (default: 2)")
    about = "share of the profile's epochs, updates and iterations (default: 0.25)"
    parser.add_argument("--share", type=float, default=0.25, help=about)
    return parser


def _profile(parsed: argparse.Namespace) -> Profile:
    profile = load_profile(parsed.profile, PARAMS)

    def part(count: int) -> int:
        return max(1, round(parsed.share * count))

    return replace(
        profile,
        device="cpu",
        tasks=TASKS[: parsed.tasks],
        reward=replace(profile.reward, epochs=part(profile.reward.epochs)),
        policy=replace(profile.policy, updates=part(profile.policy.updates)),
        finetune=replace(
            profile.finetune,
            iterations=part(profile.finetune.iterations),
            seeds=tuple(range(parsed.seeds)),
            gate="warn",
        ),
    )


def _inputs(profile: Profile, layout: Layout) -> Layout:
    """An untrained world model, and features as many as the profile's demonstrations have."""
    config = profile.world_model

    def make_model(target: Build) -> None:
        normalizer = ProprioNormalizer(np.zeros(18), np.ones(18))
        model = WorldModel(config, seed=0)
        save_model(target.directory, model, world_model_config(model, VARIANT, normalizer))

    def make_features(target: Build) -> None:
        for number, task in enumerate(profile.tasks):
            features = _features(profile, torch.Generator().manual_seed(number))
            save_features(target.directory / task, features, config)

    for output, stage, make in (
        (layout.world_model(VARIANT), "train-world-model", make_model),
        (layout.features(VARIANT), "featurize", make_features),
    ):
        build(output, make, stage=stage, params={}, inputs={})
    return layout


def _features(profile: Profile, random: torch.Generator) -> TaskFeatures:
    """Demonstrations that succeed in their last frames, told by the first element."""
    config, extract, draws = profile.world_model, profile.extract, profile.features.draws

    def latents(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, config.feature, generator=random).half().float()

    def split(count: int, row: int = 0) -> SplitFeatures:
        frames = count * FRAMES
        label = torch.arange(frames) % FRAMES >= FRAMES - 8
        posterior, imagined = latents(draws, frames), latents(draws, frames)
        posterior[..., 0] = imagined[..., 0] = label.float()
        return SplitFeatures(
            posterior=posterior,
            imagined=imagined,
            context=latents(frames),
            glimpsed=None,
            action=executable(torch.rand(frames, 7, generator=random) * 2 - 1),
            label=label,
            scene_obs=torch.zeros(frames, 24),
            length=torch.full((count,), FRAMES),
            start=row + FRAMES * torch.arange(count),
        )

    play, starts = extract.play_windows_per_task, max(extract.play_starts_per_task, 8)
    return TaskFeatures(
        training=split(extract.demos_per_task),
        validation=split(8),
        demo_starts=latents(draws, extract.demos_per_task),
        validation_starts=latents(draws, 8),
        play_starts=latents(draws, starts),
        play_start_rows=10**6 + 1000 * torch.arange(starts),
        training_play=split(play, extract.demos_per_task * FRAMES),
        validation_play=split(max(play // 2, 2)),
    )


def _digest(layout: Layout) -> tuple[str, ...]:
    outputs = (layout.reward(VARIANT), layout.policy(VARIANT), layout.finetune(VARIANT))
    return tuple(
        f"{path.relative_to(output)} {file_digest(path)}"
        for output in outputs
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    )


if __name__ == "__main__":
    main()
