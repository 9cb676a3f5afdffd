"""What no single setting of a profile can say: which of them contradict each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.store.arrays import OWN_ARRAYS
from wam.config import FinetuneConfig, PolicyConfig, WorldModelConfig, WorldModelTraining
from wam.errors import WamError

if TYPE_CHECKING:
    from pipeline.params import Convert, Profile

_LARGEST_LATENT = 65_536


def check_relations(profile: "Profile", where: str) -> None:
    """Raises WamError naming ``where`` and the keys that do not go together."""
    _check_distinct(profile.tasks, f"{where}.tasks")
    _check_convert(profile.convert, f"{where}.convert")
    _check_world_model(profile.world_model, profile.train_world_model, where)
    _check_policy(profile.policy, f"{where}.policy")
    if profile.finetune.finetuned_steps > profile.policy.diffusion_steps:
        raise WamError(
            f"{where}.finetune.finetuned_steps={profile.finetune.finetuned_steps} is more than "
            f"policy.diffusion_steps={profile.policy.diffusion_steps}"
        )
    _check_ddim(profile, where)
    _check_finetune(profile.finetune, f"{where}.finetune")


def _check_distinct(values: Sequence[Any], where: str) -> None:
    if len(set(values)) < len(values):
        raise WamError(f"{where}: names {max(values, key=values.count)} twice")


def _check_world_model(model: WorldModelConfig, training: WorldModelTraining, where: str) -> None:
    if model.stoch * model.classes > _LARGEST_LATENT:
        raise WamError(
            f"{where}.world_model.stoch={model.stoch} times classes={model.classes} is more than "
            f"{_LARGEST_LATENT}"
        )
    if model.seed_match_scale and not model.embedding_image_scale:
        raise WamError(
            f"{where}.world_model.seed_match_scale={model.seed_match_scale}: there is nothing to "
            "match without embedding_image_scale"
        )
    if training.window <= model.id_steps:
        raise WamError(
            f"{where}.train_world_model.window={training.window}: needs at least "
            f"{model.id_steps + 1}, one more than world_model.id_steps"
        )
    if training.lr_final is not None:
        _check_falling(training.lr, training.lr_final, f"{where}.train_world_model")


def _check_policy(policy: PolicyConfig, where: str) -> None:
    _check_residual(policy.hidden, f"{where}.hidden")
    _check_falling(policy.lr, policy.lr_final, where)


def _check_falling(lr: float, lr_final: float, where: str) -> None:
    if lr_final > lr:
        raise WamError(f"{where}.lr_final={lr_final} is more than lr={lr}, from which it falls")


def _check_residual(hidden: Sequence[int], where: str) -> None:
    if len(hidden) % 2 == 0 or len(set(hidden)) > 1:
        raise WamError(
            f"{where}={list(hidden)}: needs an odd number of equal widths (one input layer, then "
            "pairs)"
        )


def _check_ddim(profile: "Profile", where: str) -> None:
    """None of the steps that fine-tuning trains may be left out altogether."""
    count, steps = profile.evaluate.ddim_steps, profile.policy.diffusion_steps
    finetuned = profile.finetune.finetuned_steps
    if count is None:
        return
    if count > steps:
        raise WamError(
            f"{where}.evaluate.ddim_steps={count} is more than policy.diffusion_steps={steps}"
        )
    if steps // count > finetuned:
        raise WamError(
            f"{where}.evaluate.ddim_steps={count}: too few; none would be among the last "
            f"{finetuned} of {steps} (finetune.finetuned_steps), which fine-tuning trains"
        )


def _check_finetune(finetune: FinetuneConfig, where: str) -> None:
    _check_distinct(finetune.seeds, f"{where}.seeds")
    _check_residual(finetune.critic_hidden, f"{where}.critic_hidden")
    if finetune.clip_base > finetune.clip_max:
        raise WamError(
            f"{where}.clip_base={finetune.clip_base} is more than clip_max={finetune.clip_max}"
        )
    if finetune.environment == "simulator":
        for name, only in (
            ("advantage", "gae"),
            ("start_curriculum", 0),
            ("disagreement_scale", 0),
        ):
            if (value := getattr(finetune, name)) != only:
                raise WamError(
                    f"{where}.{name}={value}: environment=simulator, a control, has {only} alone"
                )
    if finetune.disagreement_scale and finetune.disagreement_heads < 2:
        raise WamError(
            f"{where}.disagreement_heads={finetune.disagreement_heads}: needs at least 2, one "
            "alone cannot disagree"
        )
    if finetune.advantage == "group":
        if finetune.group < 2:
            raise WamError(
                f"{where}.group={finetune.group}: needs at least 2, an episode and another to "
                "compare it with (advantage: group)"
            )
        for name, unit in (("envs", "group"), ("steps", "max_decisions")):
            count, size = getattr(finetune, name), getattr(finetune, unit)
            if count % size:
                raise WamError(
                    f"{where}.{name}={count} is not a multiple of {unit}={size}, as advantage: "
                    f"group needs; use {(count // size + 1) * size}"
                )


def _check_convert(convert: "Convert", where: str) -> None:
    for name in ("cameras", "extra_keys", "scenes"):
        _check_distinct(getattr(convert, name) or (), f"{where}.{name}")
    if convert.shard_frames % convert.chunk_frames:
        nearest = convert.shard_frames // convert.chunk_frames * convert.chunk_frames
        raise WamError(
            f"{where}.shard_frames={convert.shard_frames} is not a multiple of "
            f"chunk_frames={convert.chunk_frames}; use {nearest + convert.chunk_frames}"
        )
    for key in convert.extra_keys:
        if key in OWN_ARRAYS or not key.isidentifier():
            raise WamError(
                f"{where}.extra_keys: {key!r} is not the name of a further array; not allowed are "
                f"{', '.join(OWN_ARRAYS)}"
            )
    for split, ranges in (convert.frames or {}).items():
        free = 0
        for first, last in ranges:
            if not free <= first <= last:
                raise WamError(
                    f"{where}.frames.{split}: [{first}, {last}] is reversed, or not after the "
                    "range before it; expected ascending ranges [first, last], both inclusive"
                )
            free = last + 1
