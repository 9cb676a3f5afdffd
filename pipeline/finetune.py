"""Stage ``finetune``: DPPO of every task's policy inside the frozen world model.

No environment is stepped: episodes start from recorded frames, the world model predicts, the
classifier rewards (algorithm contract 6).
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline import artifacts, console
from pipeline.disagreement import fit_ensemble
from pipeline.features import SplitFeatures, TaskFeatures, load_features
from pipeline.layout import Layout
from pipeline.params import Profile
from pipeline.seeding import task_generator
from wam import device as devices
from wam.checkpoint import (
    load_training_state,
    load_world_model,
    save_model,
    save_training_state,
)
from wam.config import FinetuneConfig
from wam.curriculum import StartCurriculum
from wam.disagreement import DisagreementEnsemble
from wam.errors import WamError
from wam.imagination import LatentEnv, imagined_success
from wam.journal import Journal
from wam.policy import DiffusionPolicy, load_policy, policy_description
from wam.ppo import Dppo
from wam.reward import SuccessClassifier, load_reward
from wam.world_model import WorldModel

STAGE = "finetune"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.safetensors"
ENSEMBLE = "disagreement"
"""Directory of the disagreement ensemble, beside those of the tasks."""


class Parts(NamedTuple):
    """What the fine-tuning of one task starts from, on the device."""

    world_model: WorldModel
    weights: str
    """digest of the world model's weights when they were loaded"""
    classifier: SuccessClassifier
    base: DiffusionPolicy
    starts: tuple[torch.Tensor, torch.Tensor]
    """first features of the demonstrations [S * D, F], and of play [S * M, F]"""
    demos: SplitFeatures
    """all features of the training demonstrations, on the CPU"""
    doubt: DisagreementEnsemble | None
    """None: states unlike the data cost nothing"""


def run(profile: Profile, layout: Layout, variant: str) -> None:
    """Fine-tune the profile's tasks and seeds; finished ones are kept, a begun one goes on.

    Raises WamError if ``finetune.gate`` is ``stop`` and a task's classifier is not precise enough,
    or if the world model's weights changed.
    """
    device = devices.resolve(profile.device)
    config = profile.finetune
    inputs = {
        "world_model": artifacts.fingerprint(layout.world_model(variant), "train-world-model"),
        "features": artifacts.fingerprint(layout.features(variant), "featurize"),
        "reward": artifacts.fingerprint(layout.reward(variant), "train-reward"),
        "policy": artifacts.fingerprint(layout.policy(variant), "train-policy"),
    }
    check_rewards(layout.reward(variant), profile)
    world_model, _ = load_world_model(layout.world_model(variant), device)
    weights = weights_digest(world_model)
    params = {"finetune": asdict(config), "tasks": list(profile.tasks)}
    output = layout.finetune(variant)
    with artifacts.building(output, stage=STAGE, params=params, inputs=inputs) as (
        partial,
        manifest,
    ):
        doubt = None
        if config.disagreement_scale:
            features, model = layout.features(variant), world_model.config
            doubt = fit_ensemble(partial / ENSEMBLE, features, profile, model, device)
        total = len(profile.tasks) * len(config.seeds) * config.iterations
        with console.progress(f"finetune {variant}", total, "iterations") as advance:
            for task in profile.tasks:
                parts = _load(layout, variant, task, world_model, weights, doubt, device)
                for seed in config.seeds:
                    directory = partial / task / f"seed-{seed}"
                    if (directory / artifacts.SUMMARY).is_file():
                        advance(config.iterations, task)
                        continue
                    finetune(directory, task, seed, parts, config, profile, advance)
        manifest["world_model_weights"] = {
            "before": weights,
            "after": weights_digest(world_model),
        }
        summary = {task: _headline(partial / task, config) for task in profile.tasks}
        artifacts.write_json(partial / artifacts.SUMMARY, summary)
    figures = ", ".join(
        f"{task} {100 * entry['imagined_success_first']:.0f}→"
        f"{100 * entry['imagined_success_last']:.0f}%"
        for task, entry in summary.items()
    )
    console.done(STAGE, f"{variant}: imagined success {figures} → {output}")


def check_rewards(directory: Path, profile: Profile) -> None:
    """Warn about classifiers that imagination would exploit, or stop (algorithm contract 5.5)."""
    summary = artifacts.read_json(directory / artifacts.SUMMARY)
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


def finetune(
    directory: Path,
    task: str,
    seed: int,
    parts: Parts,
    config: FinetuneConfig,
    profile: Profile,
    advance: Callable[..., None],
) -> None:
    """Fine-tune one policy into ``directory``, from its last checkpoint if there is one.

    A run that was killed and continued gives the policy of an uninterrupted one on the same CPU.
    """
    directory.mkdir(parents=True, exist_ok=True)
    demos, _ = parts.starts
    device, feature = demos.device, demos.shape[-1]
    generator = task_generator(seed, task, device)
    dppo = Dppo(parts.base.base, feature, config, task_generator(seed, task, part=1))
    env = _make_env(parts, config, generator)
    journal = Journal(directory / METRICS_FILE)
    checkpoint = load_training_state(directory / CHECKPOINT_FILE)
    if checkpoint is None:
        first = _imagined_success(parts, dppo, config, task, seed)
    else:
        dppo.load_state_dict(checkpoint["dppo"])
        generator.set_state(checkpoint["generator"])
        first = checkpoint["imagined_success_first"]
    journal.rewind(dppo.iteration)
    advance(dppo.iteration, task)
    curriculum = _curriculum(parts, config, task)
    while dppo.iteration < config.iterations:
        placed = _place_starts(env, parts, curriculum, dppo.iteration)
        record = dppo.train_iteration(env, generator) | placed
        journal.append(record)
        advance(1, _note(task, seed, record))
        if dppo.iteration % config.checkpoint_every == 0 and dppo.iteration < config.iterations:
            state = {
                "dppo": dppo.state_dict(),
                "generator": generator.get_state(),
                "imagined_success_first": first,
            }
            save_training_state(directory / CHECKPOINT_FILE, state)
    last = _imagined_success(parts, dppo, config, task, seed)
    _check_frozen(parts, directory)
    description = policy_description(profile.policy, feature, config.finetuned_steps)
    save_model(directory, dppo.policy, description)
    (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
    final = journal.records()[-1]
    summary = {
        "imagined_success_first": first,
        "imagined_success_last": last,
        "explored_success_last": final["imagined_success"],
        "success_decision": final["success_decision"],
        "bc_kl": final["bc_kl"],
        "approx_kl": final["approx_kl"],
        "clip_fraction": sum(final["clip_fraction_by_k"]) / config.finetuned_steps,
        "explained_variance": final["explained_variance"],
        "actor_distance": final["actor_distance"],
        "clamped_actions": final["clamped_actions"],
        "iterations": dppo.iteration,
    }
    if config.disagreement_scale:
        summary["penalty"] = final["penalty"]
    artifacts.write_json(directory / artifacts.SUMMARY, summary)


def weights_digest(module: nn.Module) -> str:
    """Hex digest of a module's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, values in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_frozen(parts: Parts, directory: Path) -> None:
    """Discard the run in ``directory`` and raise WamError if the world model is not what it was."""
    now = weights_digest(parts.world_model)
    if now != parts.weights:
        shutil.rmtree(directory)
        raise WamError(
            f"{directory}: the world model's weights changed while fine-tuning ({parts.weights} "
            f"before, {now} after), so the policy was discarded; they have to stay frozen"
        )


def _load(
    layout: Layout,
    variant: str,
    task: str,
    world_model: WorldModel,
    weights: str,
    doubt: DisagreementEnsemble | None,
    device: torch.device,
) -> Parts:
    base = load_policy(layout.policy(variant) / task, device)
    if not isinstance(base, DiffusionPolicy):
        raise WamError(f"{layout.policy(variant) / task}: a fine-tuned policy; expected kind 'bc'")
    features = load_features(layout.features(variant), task)
    classifier = load_reward(layout.reward(variant) / task, device)
    starts = tuple(part.to(device) for part in _starts(features))
    first = (starts[0], starts[1])
    return Parts(world_model, weights, classifier, base, first, features.training, doubt)


def _starts(features: TaskFeatures) -> tuple[torch.Tensor, torch.Tensor]:
    """First features of training demonstrations and of training play; never validation starts."""
    training = features.training
    return training.posterior[:, training.first].flatten(0, 1), features.play_starts.flatten(0, 1)


def _make_env(parts: Parts, config: FinetuneConfig, generator: torch.Generator) -> LatentEnv:
    return LatentEnv(
        parts.world_model,
        parts.classifier,
        parts.starts,
        config.envs,
        config.max_decisions,
        generator,
        config.group if config.advantage == "group" else None,
        parts.doubt,
        config.disagreement_scale,
    )


def _curriculum(parts: Parts, config: FinetuneConfig, task: str) -> StartCurriculum | None:
    """The curriculum of the demonstrations' starts; those of play stay what they are."""
    if not config.start_curriculum:
        return None
    demos, device = parts.demos, parts.starts[0].device
    iterations = config.start_curriculum * config.iterations
    try:
        return StartCurriculum(demos.posterior.to(device), demos.label, demos.length, iterations)
    except WamError as error:
        raise WamError(f"{task}: {error}") from None


def _place_starts(
    env: LatentEnv, parts: Parts, curriculum: StartCurriculum | None, iteration: int
) -> dict[str, Any]:
    """Let episodes start where the curriculum is; returns what the iteration's record says of it.

    The place follows from the iteration alone, so a continued run needs nothing saved.
    """
    if curriculum is None:
        return {}
    demos, play = parts.starts
    position = curriculum.position(iteration)
    env.start_from([demos if position is None else curriculum.starts(position), play])
    return {"start_position": position}


def _imagined_success(
    parts: Parts, dppo: Dppo, config: FinetuneConfig, task: str, seed: int
) -> float:
    """Imagined success from the demonstrations' starts, sampled as at evaluation."""
    starts = parts.starts[0]
    # The same random numbers before and after: a fair comparison.
    generator = task_generator(seed, task, starts.device, part=2)
    return imagined_success(
        parts.world_model, parts.classifier, dppo.policy, starts, config.max_decisions, generator
    )


def _note(task: str, seed: int, record: dict[str, Any]) -> str:
    success = record["imagined_success"]
    shown = "–" if success is None else f"{100 * success:.0f}%"
    return f"{task} seed {seed}  imagined success {shown}  BC-KL {record['bc_kl']:.4f}"


def _headline(directory: Path, config: FinetuneConfig) -> dict[str, float]:
    """Figures of one task, averaged over the seeds that have them."""
    runs = [
        artifacts.read_json(directory / f"seed-{seed}" / artifacts.SUMMARY) for seed in config.seeds
    ]
    headline = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run[name] is not None]
        if values:
            headline[name] = sum(values) / len(values)
    return headline
