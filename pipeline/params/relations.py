"""What no single setting of a profile can say: which of them contradict each other."""

from collections.abc import Iterator, Sequence

from pipeline.params.profile import Convert, Profile
from pipeline.store.arrays import OWN_ARRAYS
from wam.config import FinetuneConfig, PolicyConfig, WorldModelConfig, WorldModelTraining

_MOST = 65_536
"""Numbers in the discrete part of a latent."""


def contradictions(profile: Profile) -> Iterator[str]:
    """What does not go together, each as a sentence that begins with the key within the profile."""
    finetuned, steps = profile.finetune.finetuned_steps, profile.policy.diffusion_steps
    yield from _twice("tasks", profile.tasks)
    yield from _in_convert(profile.convert)
    yield from _in_world_model(profile.world_model, profile.train_world_model)
    yield from _in_refinement(profile)
    if profile.loader.reader == "shards":
        model, share = profile.world_model, profile.train_world_model.data_share
        settings = {
            "world_model.distractors=true": model.distractors,
            f"world_model.view_reach={model.view_reach}": model.view_reach,
            f"train_world_model.data_share={share}": share < 1,
        }
        for setting, used in settings.items():
            if used:
                yield f"{setting}: not with loader.reader=shards, use streams or windows"
    if profile.reward.reach and not profile.world_model.proprio_state:
        yield f"reward.reach={profile.reward.reach}: needs world_model.proprio_state"
    if profile.world_model.latent == "probabilities" and profile.features.draws > 1:
        yield (
            f"features.draws={profile.features.draws}: world_model.latent=probabilities draws "
            "nothing; use 1"
        )
    yield from _uneven("policy.hidden", profile.policy.hidden)
    yield from _rising("policy", profile.policy)
    yield from _more("finetune.finetuned_steps", finetuned, "policy.diffusion_steps", steps)
    if (count := profile.evaluate.ddim_steps) is not None:
        yield from _more("evaluate.ddim_steps", count, "policy.diffusion_steps", steps)
        if steps // count > finetuned:
            yield (
                f"evaluate.ddim_steps={count}: too few; none would be among the last {finetuned} "
                f"of {steps} (finetune.finetuned_steps), which fine-tuning trains"
            )
    yield from _in_finetune(profile.finetune)
    if profile.finetune.start_curriculum and profile.extract.further_starts != "play":
        yield (
            f"finetune.start_curriculum={profile.finetune.start_curriculum}: moves demonstrations' "
            "starts beside those of play; needs extract.further_starts=play"
        )


def _in_convert(convert: Convert) -> Iterator[str]:
    yield from _twice("convert.cameras", convert.cameras)
    yield from _twice("convert.extra_keys", convert.extra_keys)
    yield from _twice("convert.scenes", convert.scenes or ())
    shard, chunk = convert.shard_frames, convert.chunk_frames
    yield from _no_multiple("convert.shard_frames", shard, "chunk_frames", chunk)
    for key in convert.extra_keys:
        if key in OWN_ARRAYS or not key.isidentifier():
            yield (
                f"convert.extra_keys: {key!r} is not the name of a further array; not allowed are "
                f"{', '.join(OWN_ARRAYS)}"
            )
    for split, ranges in (convert.frames or {}).items():
        free = 0
        for first, last in ranges:
            if not free <= first <= last:
                yield (
                    f"convert.frames.{split}: [{first}, {last}] is reversed, or not after the "
                    "range before it; expected ascending ranges [first, last], both inclusive"
                )
            free = last + 1


def _in_world_model(model: WorldModelConfig, training: WorldModelTraining) -> Iterator[str]:
    stoch, classes = model.stoch, model.classes
    if stoch * classes > _MOST:
        yield f"world_model.stoch={stoch} times classes={classes} is more than {_MOST}"
    if model.seed_match_scale and not model.embedding_image_scale:
        yield (
            f"world_model.seed_match_scale={model.seed_match_scale}: there is nothing to match "
            "without embedding_image_scale"
        )
    if model.view_reach and not (model.embedding_image_scale and model.proprioception):
        yield (
            f"world_model.view_reach={model.view_reach}: has embeddings draw another frame's arm; "
            "needs embedding_image_scale and proprioception"
        )
    if model.proprio_state and model.latent != "probabilities":
        yield "world_model.proprio_state=true: with latent: probabilities alone"
    if model.proprio_state and not model.proprioception:
        yield (
            "world_model.proprio_state=true: states carry what the model is not to see; needs "
            "proprioception"
        )
    if model.keep_bias and model.gru != "plain":
        yield f"world_model.keep_bias={model.keep_bias}: of the plain cell alone (gru: plain)"
    least, why = model.id_steps + 1, "one more than world_model.id_steps"
    yield from _less("train_world_model.window", training.window, least, why)
    yield from _rising("train_world_model", training)


def _in_refinement(profile: Profile) -> Iterator[str]:
    refinement, model = profile.refine_world_model, profile.world_model
    if model.proprio_state and profile.finetune.disagreement_scale:
        yield "finetune.disagreement_scale: not with world_model.proprio_state"
    if model.proprio_state and profile.raw.path is None and profile.collect.actions != "commanded":
        yield (
            f"world_model.proprio_state=true: learns how the arm follows commands; "
            f"collect.actions={profile.collect.actions} records none, use commanded"
        )
    if not refinement.updates:
        if model.proprio_state:
            yield "world_model.proprio_state=true: learned in refine_world_model.updates, set to 0"
        return
    if refinement.first_looks:
        why = "for one look and one step without"
        yield from _less("refine_world_model.window", refinement.window, 2, why)
    if not model.seed_match_scale:
        yield (
            f"refine_world_model.updates={refinement.updates}: the decoder would not follow "
            "without world_model.seed_match_scale"
        )
    if profile.loader.reader == "shards":
        yield (
            f"refine_world_model.updates={refinement.updates}: embeds the store; "
            "loader.reader=shards does without it"
        )
    most, what = model.visual_embedding, "world_model.visual_embedding"
    yield from _more("refine_world_model.components", refinement.components, what, most)


def _in_finetune(finetune: FinetuneConfig) -> Iterator[str]:
    yield from _twice("finetune.seeds", finetune.seeds)
    yield from _uneven("finetune.critic_hidden", finetune.critic_hidden)
    yield from _more("finetune.clip_base", finetune.clip_base, "clip_max", finetune.clip_max)
    if finetune.environment == "simulator":
        for name, value, only in (
            ("advantage", finetune.advantage, "gae"),
            ("start_curriculum", finetune.start_curriculum, 0),
            ("disagreement_scale", finetune.disagreement_scale, 0),
        ):
            if value != only:
                yield f"finetune.{name}={value}: environment=simulator, a control, has {only} alone"
    if finetune.disagreement_scale:
        heads, why = finetune.disagreement_heads, "one alone cannot disagree"
        yield from _less("finetune.disagreement_heads", heads, 2, why)
    if finetune.advantage == "group":
        why = "an episode and another to compare it with (advantage: group)"
        yield from _less("finetune.group", finetune.group, 2, why)
        for name, value, unit, size in (
            ("envs", finetune.envs, "group", finetune.group),
            ("steps", finetune.steps, "max_decisions", finetune.max_decisions),
        ):
            why = ", as advantage: group needs"
            yield from _no_multiple(f"finetune.{name}", value, unit, size, why)


def _twice(key: str, values: Sequence[object]) -> Iterator[str]:
    if len(set(values)) < len(values):
        yield f"{key}: names {max(values, key=values.count)} twice"


def _uneven(key: str, hidden: Sequence[int]) -> Iterator[str]:
    if len(hidden) % 2 == 0 or len(set(hidden)) > 1:
        why = "one input layer, then pairs"
        yield f"{key}={list(hidden)}: needs an odd number of equal widths ({why})"


def _rising(section: str, config: WorldModelTraining | PolicyConfig) -> Iterator[str]:
    if config.lr_final is not None:
        why = ", from which it falls"
        yield from _more(f"{section}.lr_final", config.lr_final, "lr", config.lr, why)


def _less(key: str, value: int, least: int, why: str) -> Iterator[str]:
    if value < least:
        yield f"{key}={value}: needs at least {least}, {why}"


def _more(key: str, value: float, other: str, most: float, why: str = "") -> Iterator[str]:
    if value > most:
        yield f"{key}={value} is more than {other}={most}{why}"


def _no_multiple(key: str, value: int, other: str, unit: int, why: str = "") -> Iterator[str]:
    if value % unit:
        use = (value // unit + 1) * unit
        yield f"{key}={value} is not a multiple of {other}={unit}{why}; use {use}"
