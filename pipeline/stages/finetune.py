"""Stage ``finetune``: DPPO of every task's policy inside the frozen world model.

No environment is stepped: episodes start from recorded frames, the world model predicts, the
classifier rewards (docs/algorithm.md 6). Only where ``finetune.environment`` is ``simulator``,
episodes run in the simulator instead, as an upper bound.
"""

import contextlib
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.building import Build, build
from pipeline.artifacts.layout import Layout
from pipeline.artifacts.parts import Part, make_parts
from pipeline.finetuning.ensemble import fit_ensemble
from pipeline.finetuning.task import TaskInputs, World, finetune, weights_digest
from pipeline.latents.features import SplitFeatures, TaskFeatures, load_features
from pipeline.params import Profile
from pipeline.workers import crew
from wam import device as devices
from wam.config import FinetuneConfig
from wam.errors import WamError
from wam.policy.policy import DiffusionPolicy, load_policy_and_config
from wam.ppo.disagreement import DisagreementEnsemble
from wam.reward.classifier import load_reward
from wam.stretches import stretches
from wam.world_model.load import load_world_model

if TYPE_CHECKING:
    from pipeline.finetuning.simulator import Simulator

STAGE = "finetune"
ENSEMBLE = "disagreement"
"""Directory of the disagreement ensemble, beside those of the tasks."""
HELD_OUT_EVERY = 5
"""One of so many attempts among further annotated starts is not trained from."""
ATTEMPT_FRAMES = 65
"""The longest annotated window of CALVIN (docs/calvin.md): starts that lie closer may be of one
attempt."""
_FREE = ("checkpoint_every", "validate_every", "min_imagined_precision")
"""Settings that shape no policy."""


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Fine-tune the profile's tasks and seeds; finished ones are kept, a begun one goes on.

    Raises WamError if ``finetune.gate`` is ``stop`` and a task's classifier is not precise enough,
    or if the world model's weights changed.
    """
    device = devices.resolve(profile.device)
    config = profile.finetune
    inputs = {
        "world_model": manifests.fingerprint(layout.world_model(variant), "train-world-model"),
        "features": manifests.fingerprint(layout.features(variant), "featurize"),
        "reward": manifests.fingerprint(layout.reward(variant), "train-reward"),
        "policy": manifests.fingerprint(layout.policy(variant), "train-policy"),
    }
    world_model, normalizer = load_world_model(layout.world_model(variant), device)
    params: dict[str, Any] = {
        "finetune": asdict(config),
        "tasks": list(profile.tasks),
        "further_starts": profile.extract.further_starts,
    }
    simulator: Simulator | None = None
    origin: dict[str, Any] = {}
    if config.environment == "simulator" and config.seeds:
        # Imported here: imagination does without the simulator.
        from pipeline.finetuning import simulator as in_simulator

        simulator = in_simulator.Simulator(profile, layout, world_model, normalizer, device)
        origin = {
            **simulator.config.description(),
            "scene": simulator.config.scene,
            "differs_from_data": simulator.differs,
        }
        params |= {
            "env": simulator.config,
            "filtering": profile.features.filtering._asdict(),
            "look_every": profile.evaluate.look_every,
            # Of its own tasks alone: more tasks go on from the work of fewer.
            "look_every_of": {
                task: every
                for task, every in profile.evaluate.look_every_of.items()
                if task in profile.tasks
            },
        }
        inputs["demos"] = manifests.fingerprint(layout.demos, "extract")
    elif config.seeds:
        check_rewards(layout.reward(variant), profile)
    output = layout.finetune(variant)
    parts = [f"{task}/seed-{seed}" for task in profile.tasks for seed in config.seeds]

    def is_enough(directory: Path) -> bool:
        summary = manifests.read_json(directory / manifests.SUMMARY)
        return summary["iterations"] == config.iterations

    def make(target: Build) -> None:
        target.manifest.update(environment=config.environment, **origin)
        ensemble = None
        if config.disagreement_scale and config.seeds:
            source, model = layout.features(variant), world_model.config
            with devices.threads(1):
                ensemble = fit_ensemble(target, ENSEMBLE, source, profile, model, device)

        make_parts(
            target,
            parts,
            partial(_train, profile, layout.absolute(), variant, ensemble, simulator),
            title=f"finetune {variant}",
            steps=config.iterations,
            unit="iterations",
            is_enough=is_enough,
            # The simulator's processes are children of this one.
            runners=partial(
                crew,
                replace(profile.parallel, workers=1, dask_address=None)
                if simulator
                else profile.parallel,
                on_gpu=device.type == "cuda",
            ),
        )
        target.manifest["world_model_weights"] = weights_digest(world_model)
        tasks = profile.tasks if config.seeds else ()
        summary = {task: _headline(target.directory / task, config) for task in tasks}
        manifests.write_json(target.directory / manifests.SUMMARY, summary)

    with simulator or contextlib.nullcontext():
        build(
            output,
            make,
            stage=STAGE,
            params=params,
            inputs=inputs,
            free=[f"finetune.{name}" for name in _FREE],
            growing=_growing(config),
        )
    summary = manifests.read_json(output / manifests.SUMMARY)
    if not config.seeds:
        console.done(STAGE, f"{variant}: finetune.seeds: []; the clones stay as they are")
        return
    figures = ", ".join(
        f"{task} {100 * entry['imagined_success_first']:.0f}→"
        f"{100 * entry['imagined_success_last']:.0f}%"
        for task, entry in summary.items()
    )
    where = " (fine-tuned in the simulator)" if simulator else ""
    console.done(STAGE, f"{variant}{where}: imagined success {figures} → {output}")


def _train(
    profile: Profile,
    layout: Layout,
    variant: str,
    ensemble: DisagreementEnsemble | None,
    simulator: "Simulator | None",
    part: Part,
) -> None:
    """Fine-tune one task with one seed: a part called ``task/seed-0``."""
    task, seed = part.name.split("/seed-")
    device = devices.resolve(profile.device)
    if simulator:
        model = simulator.world_model
    else:
        model, _ = load_world_model(layout.world_model(variant), device)
    world = World(model, weights_digest(model), ensemble, simulator)
    devices.keep_freed_memory()
    inputs = _load(profile, layout, variant, task, world, device)
    with devices.threads(1):  # small networks gain nothing; results are those of any crew
        finetune(part, int(seed), inputs, profile)


def _growing(config: FinetuneConfig) -> list[str]:
    """Settings with which begun work can go on when more is asked for."""
    growing = [] if config.start_curriculum else ["finetune.iterations"]
    # An ensemble has learned from all tasks, with the first seed.
    return growing if config.disagreement_scale else [*growing, "tasks", "finetune.seeds"]


def check_rewards(directory: Path, profile: Profile) -> None:
    """Warn about classifiers that imagination would exploit, or stop (docs/algorithm.md 5.5)."""
    summary = manifests.read_json(directory / manifests.SUMMARY)
    limit = profile.finetune.min_imagined_precision
    for task in profile.tasks:
        precision = summary[task]["precision_imagined"]
        if precision is not None and precision >= limit:
            continue
        reached = "undefined" if precision is None else f"{precision:.2f}"
        message = (
            f"{task}: the reward classifier's precision on imagined features is {reached}, "
            f"below finetune.min_imagined_precision={limit}; the policy would learn to fool it"
        )
        if profile.finetune.gate == "stop":
            raise WamError(
                f"{message}. Train the world model longer or collect more demonstrations, "
                "or set finetune.gate to warn"
            )
        console.warn(message)


def _load(
    profile: Profile, layout: Layout, variant: str, task: str, world: World, device: torch.device
) -> TaskInputs:
    policy = layout.policy(variant) / task
    rewards = manifests.read_json(layout.reward(variant) / manifests.SUMMARY)
    base, base_config = load_policy_and_config(policy, device)
    if not isinstance(base, DiffusionPolicy):
        raise WamError(f"{policy}: a fine-tuned policy; expected kind 'bc'")
    features = load_features(layout.features(variant), task)
    starts, held_out = imagination_starts(
        features, profile.extract.further_starts, profile.finetune.gate
    )
    if profile.finetune.gate == "keep" and not len(held_out):
        why = (
            "those of play are no attempts"
            if profile.extract.further_starts == "play"
            else f"fewer than {HELD_OUT_EVERY} attempts beside the demonstrations"
        )
        console.warn(
            f"{task}: no starts are held out ({why}); by finetune.gate=keep the clone stays for "
            "finetune.min_window_auc alone"
        )
    return TaskInputs(
        task=task,
        world=world,
        classifier=load_reward(layout.reward(variant) / task, device),
        window_auc=rewards[task]["window_auc_imagined"],
        base=base,
        base_config=base_config,
        features=features,
        starts=[kind.to(device) for kind in starts],
        held_out=held_out.to(device),
    )


def imagination_starts(
    features: TaskFeatures,
    further: Literal["play", "annotated"],
    gate: Literal["warn", "stop", "keep"],
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Kinds of start features [M, F] to train from, and those that are only looked at.

    Of further annotated starts those of every fifth attempt that no demonstration shows are held
    out. Where there are too few, and with starts of play, which are no attempts, the first features
    of the validation demonstrations are looked at. Not so by the ``gate`` "keep", which chooses by
    what it looks at: the evaluation starts there.
    """
    demos, validation = features.demo_starts, features.validation_starts
    others = features.play_starts
    is_held_out = _held_out(features.training, features.play_start_rows)
    if further == "play" or not is_held_out.any():
        looked_at = validation[:, :0] if gate == "keep" else validation
        return [demos.flatten(0, 1), others.flatten(0, 1)], looked_at.flatten(0, 1)
    trained = torch.cat([demos, others[:, ~is_held_out]], dim=1)
    return [trained.flatten(0, 1)], others[:, is_held_out].flatten(0, 1)


def _held_out(demos: SplitFeatures, others: torch.Tensor) -> torch.Tensor:
    """bool [M]: which starts in the rows ``others`` [M] are held out: none that ``demos`` show.

    Starts that lie within the length of a window of one another are of one attempt.
    """
    first = torch.cat([demos.start, others])
    stop = torch.cat([demos.start + demos.length, others + ATTEMPT_FRAMES])
    attempt = stretches(first, stop)
    is_demo = torch.arange(len(first)) < len(demos.start)
    free = attempt[~torch.isin(attempt, attempt[is_demo])].unique()
    return torch.isin(attempt[~is_demo], free[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])


def _headline(directory: Path, config: FinetuneConfig) -> dict[str, Any]:
    """Figures of one task, averaged over the seeds that have them."""
    runs = [
        manifests.read_json(directory / f"seed-{seed}" / manifests.SUMMARY) for seed in config.seeds
    ]
    kept = {
        f"seed {seed}": run["kept_clone"]
        for seed, run in zip(config.seeds, runs, strict=True)
        if run["kept_clone"]
    }
    headline: dict[str, Any] = {"environment": config.environment, "kept_clone": kept}
    for name in runs[0].keys() - headline.keys():
        values = [run[name] for run in runs if run[name] is not None]
        if values:
            headline[name] = sum(values) / len(values)
    return headline
