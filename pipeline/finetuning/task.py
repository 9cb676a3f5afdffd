"""DPPO of one task's policy with one seed, resumable: what stage ``finetune`` is made of."""

import hashlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from pipeline import console
from pipeline.artifacts import manifests
from pipeline.artifacts.parts import Part
from pipeline.latents.features import TaskFeatures
from pipeline.params import Profile
from wam.config import FinetuneConfig, PolicyConfig
from wam.errors import WamError
from wam.policy.policy import DiffusionPolicy, policy_description
from wam.ppo.curriculum import StartCurriculum
from wam.ppo.disagreement import DisagreementEnsemble
from wam.ppo.imagination import Environment, LatentEnv, imagined_outcome
from wam.ppo.ppo import Dppo
from wam.randomness import task_generator
from wam.reliability.interruption import deferred
from wam.reward.classifier import SuccessClassifier
from wam.weights import save_model
from wam.world_model.model import WorldModel

if TYPE_CHECKING:
    from pipeline.finetuning.simulator import Simulator

_SMALLEST_GAP = 0.1
_LOOKS = 8
"""Episodes from every held-out start: there are few, and they decide whether the clone stays."""


class ImaginedSuccess(NamedTuple):
    """Share of the start states from which a policy, sampled as at evaluation, succeeds."""

    training: float
    held_out: float | None
    """None without held-out starts"""

    @property
    def record(self) -> dict[str, float | None]:
        """As it is kept in the journal."""
        return {"training_starts_success": self.training, "held_out_starts_success": self.held_out}


class World(NamedTuple):
    """What the policies of all tasks are fine-tuned in, on the device."""

    model: WorldModel
    weights: str
    """digest of the model's weights when they were loaded"""
    ensemble: DisagreementEnsemble | None
    """None: states unlike the data cost nothing"""
    simulator: "Simulator | None"
    """where episodes run; None: in the world model"""


class TaskInputs(NamedTuple):
    """What the fine-tuning of one task starts from, on the device."""

    task: str
    world: World
    classifier: SuccessClassifier
    window_auc: float | None
    """of the classifier on imagined training windows"""
    base: DiffusionPolicy
    base_config: PolicyConfig
    """of the base, whatever the profile says by now"""
    features: TaskFeatures
    """all of the task, on the CPU"""
    starts: Sequence[torch.Tensor]
    """kinds of start features [M, F], all equally often: those of the demonstrations, with further
    annotated ones if there are such, and those of play"""
    held_out: torch.Tensor
    """start features [M, F] that are looked at and never trained on"""


def finetune(part: Part, seed: int, inputs: TaskInputs, profile: Profile) -> None:
    """Fine-tune one policy, from the last checkpoint of the ``part``, if any.

    A run that was killed and continued gives the policy of an uninterrupted one on the same CPU.
    Raises WamError if the checkpoint is of a later iteration than the run has, and Interrupted,
    after a checkpoint, if the process is asked to end.
    """
    config, task = profile.finetune, inputs.task
    device, feature = inputs.starts[0].device, inputs.starts[0].shape[-1]
    generator = task_generator(seed, task, device)
    dppo = Dppo(inputs.base.base, feature, config, task_generator(seed, task, part=1))
    env = _environment(inputs, config, generator)
    if part.state is None:
        first = _imagined_success(inputs, dppo, config, seed)
    else:
        dppo.load_state_dict(part.state["dppo"])
        _check_length(dppo.iteration, config, part.work)
        generator.set_state(part.state["generator"])
        first = ImaginedSuccess(*part.state["imagined_success_first"])
    warned = False
    # Draws of one start are no further starts.
    num_held_out = len(inputs.held_out) // len(inputs.features.play_starts)
    part.advance(dppo.iteration, task)
    curriculum = _curriculum(inputs, config)
    with deferred() as asked:
        while dppo.iteration < config.iterations:
            placed = _place_starts(env, inputs, curriculum, dppo.iteration)
            try:
                record = dppo.train_iteration(env, generator) | placed
            except WamError as error:
                raise WamError(f"{task} seed {seed}: {error}") from None
            last_one = dppo.iteration == config.iterations
            if last_one or dppo.iteration % config.validate_every == 0:
                now = _imagined_success(inputs, dppo, config, seed)
                record |= now.record
                if not warned and (warning := overfitting(first, now, num_held_out)):
                    warned = True
                    console.warn(f"{task} seed {seed}, iteration {dppo.iteration}: {warning}")
            part.journal.append(record)
            part.advance(1, _note(task, seed, record))
            stop = asked()
            if last_one or stop or dppo.iteration % config.checkpoint_every == 0:
                part.checkpoint.save(
                    {
                        "dppo": dppo.state_dict(),
                        "generator": generator.get_state(),
                        "imagined_success_first": list(first),
                    }
                )
            if stop:
                return
    _check_frozen(inputs, part)
    final = part.journal.records()[-1]
    if "training_starts_success" not in final:  # the run was to be longer
        final |= _imagined_success(inputs, dppo, config, seed).record
    kept = None
    if inputs.world.simulator is None:
        last = ImaginedSuccess(final["training_starts_success"], final["held_out_starts_success"])
        kept = reason_to_keep(config, inputs.window_auc, first, last, num_held_out)
    if kept:
        console.warn(f"{task} seed {seed}: the clone stays: {kept}")
        dppo.policy.actor.load_state_dict(dppo.policy.base.state_dict())
    description = policy_description(inputs.base_config, feature, config.finetuned_steps)
    save_model(part.directory, dppo.policy, description)
    summary = {
        "kept_clone": kept,
        "imagined_success_first": first.training,
        "imagined_success_last": final["training_starts_success"],
        "held_out_imagined_success_first": first.held_out,
        "held_out_imagined_success_last": final["held_out_starts_success"],
        "explored_success_last": final["explored_success"],
        "success_decision": final["success_decision"],
        "bc_kl": final["bc_kl"],
        "approx_kl": final["approx_kl"],
        "clip_fraction": sum(final["clip_fraction_by_k"]) / config.finetuned_steps,
        "explained_variance": final["explained_variance"],
        "actor_distance": final["actor_distance"],
        "clamped_actions": final["clamped_actions"],
        "iterations": dppo.iteration,
        "environment": config.environment,
    }
    if config.disagreement_scale:
        summary["penalty"] = final["penalty"]
    manifests.write_json(part.directory / manifests.SUMMARY, summary)


def _check_length(iteration: int, config: FinetuneConfig, place: Path) -> None:
    if iteration > config.iterations:
        raise WamError(
            f"finetune.iterations: the begun run is at iteration {iteration}, beyond the "
            f"{config.iterations} that are set ({place}); set at least as many, or move the "
            "partial directory away to begin anew"
        )


def overfitting(first: ImaginedSuccess, now: ImaginedSuccess, held_out: int) -> str | None:
    """What is wrong if success on training starts has risen and that on held-out starts has not.

    ``held_out`` is the number of held-out starts, which bounds how exactly their success is known.
    """
    if first.held_out is None or now.held_out is None:
        return None
    gap = (now.training - first.training) - (now.held_out - first.held_out)
    # Two standard errors of a share near one half, of which there are two.
    if gap <= max(_SMALLEST_GAP, math.sqrt(2 / held_out)):
        return None
    return (
        f"imagined success went from {first.training:.0%} to {now.training:.0%} on training "
        f"starts, but from {first.held_out:.0%} to {now.held_out:.0%} on held-out ones: the policy "
        "learns its starts by heart, or fools the model from them (more demonstrations and play "
        "starts, a larger finetune.bc_scale, or fewer iterations)"
    )


def reason_to_keep(
    config: FinetuneConfig,
    window_auc: float | None,
    first: ImaginedSuccess,
    last: ImaginedSuccess,
    held_out: int,
) -> str | None:
    """Why the clone is not to be replaced by what was learned in a dream, if there is a reason.

    ``held_out`` is the number of held-out starts.
    """
    if config.gate != "keep":
        return None
    if window_auc is not None and window_auc < config.min_window_auc:
        return (
            f"the classifier tells imagined windows apart with an area under ROC of "
            f"{window_auc:.2f}, below finetune.min_window_auc={config.min_window_auc}"
        )
    if first.held_out is None or last.held_out is None:
        return None
    # Held-out starts are few, and a dream has some from which nothing succeeds: of equals there the
    # one that succeeds from more training starts is better, if it did not learn these by heart.
    by_heart = overfitting(first, last, held_out) is not None
    if last.held_out > first.held_out or (
        last.held_out == first.held_out and last.training > first.training and not by_heart
    ):
        return None
    return (
        f"imagined success from held-out starts was {first.held_out:.0%} before and is "
        f"{last.held_out:.0%}, from training starts {first.training:.0%} and {last.training:.0%}"
    )


def weights_digest(module: nn.Module) -> str:
    """Hex digest of a module's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, values in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _environment(
    inputs: TaskInputs, config: FinetuneConfig, generator: torch.Generator
) -> Environment:
    if inputs.world.simulator is not None:
        return inputs.world.simulator.environment(inputs.task, config, generator)
    return LatentEnv(
        inputs.world.model,
        inputs.classifier,
        inputs.starts,
        config.envs,
        config.max_decisions,
        generator,
        config.group if config.advantage == "group" else None,
        inputs.world.ensemble,
        config.disagreement_scale,
    )


def _check_frozen(inputs: TaskInputs, part: Part) -> None:
    """Discard the run and raise WamError if the world model is not what it was."""
    before, now = inputs.world.weights, weights_digest(inputs.world.model)
    if now != before:
        shutil.rmtree(part.directory)
        shutil.rmtree(part.work)
        raise WamError(
            f"{part.directory}: the world model's weights changed while fine-tuning ({before} "
            f"before, {now} after), so the policy was discarded; they have to stay frozen"
        )


def _curriculum(inputs: TaskInputs, config: FinetuneConfig) -> StartCurriculum | None:
    """The curriculum of the demonstrations' starts; those of play stay what they are."""
    if not config.start_curriculum:
        return None
    demos, device = inputs.features.training, inputs.starts[0].device
    iterations = config.start_curriculum * config.iterations
    try:
        return StartCurriculum(demos.posterior.to(device), demos.label, demos.length, iterations)
    except WamError as error:
        raise WamError(f"{inputs.task}: {error}") from None


def _place_starts(
    env: Environment, inputs: TaskInputs, curriculum: StartCurriculum | None, iteration: int
) -> dict[str, Any]:
    """Let episodes start where the curriculum is; returns what the iteration's record says of it.

    The place follows from the iteration alone, so a continued run needs nothing saved.
    """
    if curriculum is None:
        return {}
    assert isinstance(env, LatentEnv)
    demos, play = inputs.starts
    position = curriculum.position(iteration)
    env.start_from([demos if position is None else curriculum.starts(position), play])
    return {"start_position": position}


def _imagined_success(
    inputs: TaskInputs, dppo: Dppo, config: FinetuneConfig, seed: int
) -> ImaginedSuccess:
    """Imagined success from the first kind of starts and the held-out ones, sampled as at
    evaluation."""

    def share(starts: torch.Tensor) -> float:
        # The same random numbers before and after: a fair comparison.
        generator = task_generator(seed, inputs.task, starts.device, part=2)
        outcome = imagined_outcome(
            inputs.world.model,
            inputs.classifier,
            dppo.policy,
            starts,
            config.max_decisions,
            generator,
        )
        return float(outcome.float().mean())

    looks = inputs.held_out.repeat(_LOOKS, 1)
    held_out = share(looks) if len(looks) else None
    return ImaginedSuccess(share(inputs.starts[0]), held_out)


def _note(task: str, seed: int, record: dict[str, Any]) -> str:
    success = record["explored_success"]
    shown = "–" if success is None else f"{100 * success:.0f}%"
    return f"{task} seed {seed}  success {shown}  BC-KL {record['bc_kl']:.4f}"
