"""``params.yaml`` as typed, checked data: one :class:`Profile` per top-level key.

Every field of every section has to be spelled out in the file, so that DVC sees each value that a
stage depends on.
"""

import difflib
import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from pipeline.schema import OWN_ARRAYS
from wam.config import (
    IMAGE_SIZE,
    TASKS,
    Filtering,
    FinetuneConfig,
    PolicyConfig,
    RewardConfig,
    Sampling,
    WorldModelConfig,
    WorldModelTraining,
)
from wam.envs.arm_model import RobotModel
from wam.envs.backend import Backend, SceneSource, SimulatorConfig, scene_source
from wam.envs.renderer import Renderer
from wam.errors import WamError

PARAMS_FILE = Path("params.yaml")

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Task = Literal[TASKS]  # type: ignore[valid-type]
Camera = Literal["rgb_static", "rgb_gripper"]
Scene = Literal["A", "B", "C", "D"]
Split = Literal["training", "validation"]


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Where the CALVIN-format frames are."""

    path: str | None
    """Directory with ``training/`` and ``validation/``; null: made by ``wam collect``."""


@dataclass(frozen=True, kw_only=True)
class Env:
    """The simulator, for collection and evaluation alike."""

    backend: Backend
    """``calvin_env``: the official package, which has to be installed; for evaluation only."""
    scene: Literal["A", "B", "C", "D"]
    assets: str | None
    """Directory of CALVIN's own scene assets; null: the embedded scene. With ``calvin_env``: the
    package's checkout; null: the one that it is installed from."""
    renderer: Renderer
    """``auto``: EGL, as CALVIN's own images, where a GPU draws it, else TinyRenderer. An evaluation
    on images of TinyRenderer stays with it. Without a GPU EGL is several times slower."""
    robot_model: RobotModel
    """Of the embedded scene: ``light`` has few triangles, ``full`` those of the real arm."""
    workers: Positive

    @property
    def scene_source(self) -> SceneSource:
        """Whether the scene is our own or CALVIN's."""
        return scene_source(self.backend, self.assets)

    def simulator(
        self, static_size: int, gripper_size: int, *, depth: bool = False
    ) -> SimulatorConfig:
        """The settings of one environment with images of these sizes in pixels."""
        return SimulatorConfig(
            backend=self.backend,
            scene=self.scene,
            assets=self.assets,
            renderer=self.renderer,
            robot_model=self.robot_model,
            static_size=static_size,
            gripper_size=gripper_size,
            depth=depth,
        )


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Scripted play."""

    training_frames: Positive
    validation_frames: Positive
    episode_frames: Positive
    static_size: Positive
    """Pixels of the square static image (CALVIN: 200)."""
    gripper_size: Positive
    """Pixels of the square wrist image (CALVIN: 84)."""
    depth: bool
    """Record depth images too, as CALVIN does; nothing in this pipeline learns from them."""
    max_windows_per_task: Positive
    """Most annotated windows per task in the training split."""
    max_starts_per_task: Positive
    """Most annotated windows per task in the validation split."""
    noise: Fraction
    """Scale of the experts' action noise."""
    seed: Count


@dataclass(frozen=True, kw_only=True)
class Index:
    """The listing of raw frames."""

    verify: Literal["size", "mtime", "md5"]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Raw frames to the sharded Zarr store."""

    cameras: tuple[Camera, ...]
    """Training needs both; one is enough for other uses."""
    image_size: Positive | None
    """Pixels of the square images in the store, area-interpolated; null: as recorded. The world
    model sees 64, to which its readers resize larger ones."""
    depth: bool
    """Store the cameras' depth images too."""
    extra_keys: tuple[str, ...]
    """Further arrays of the raw frames, stored as they are."""
    scenes: tuple[Scene, ...] | None
    """Training episodes of these scenes alone; null: all. The validation split stays whole."""
    frames: dict[Split, tuple[tuple[Count, Count], ...]] | None
    """Ranges [first, last] of frame ids, both inclusive, by split; null or no entry: all frames. An
    episode that a range cuts becomes a shorter one."""
    shard_frames: Positive
    chunk_frames: Positive
    zstd_level: Annotated[int, Field(ge=1, le=22)]
    on_error: Literal["fail", "skip-episode"]
    workers: Positive
    dask_address: str | None
    """Scheduler to use instead of a local cluster."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """The store as WebDataset shards."""

    sequence_frames: Positive
    sequences_per_shard: Positive


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Demonstrations and start states from the annotations."""

    demos_per_task: Positive
    play_starts_per_task: Count
    """Play frames that satisfy a task's pre-condition, as further starts of imagined episodes."""
    play_windows_per_task: Count
    """Windows of play in each split from which the reward learns beside the demonstrations, and on
    which it is calibrated; labels are the oracle's, as those of demonstrations. 0: demonstrations
    alone (the paper)."""
    seed: Count


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How the training of the world model reads its batches."""

    reader: Literal["streams", "windows", "shards"]
    """Contiguous streams with carried state, or random windows, from the store; or random windows
    from the WebDataset shards, tar by tar."""
    shards: str | None
    """Directory or URL of the shards; null: those that ``wam export`` makes."""
    cache: Literal["none", "ram", "memmap"]
    """Decode frames whenever they are read, or keep them in memory, or in a file that processes
    share (25 kB per frame)."""
    workers: Count
    """Threads that prepare batches; 0: none beside training itself."""


@dataclass(frozen=True, kw_only=True)
class EvaluateWorldModel:
    """Open-loop prediction on held-out play, and what the encoder knows of actions."""

    open_loop_sequences: Positive
    """Held-out sequences; those on which training validates are drawn in the same way."""
    open_loop_steps: Positive
    """Predicted frames of each, after the given one."""
    probe_sequences: Positive
    """Training sequences, equally long, from which the action probes learn."""
    lpips_weights: str | None
    """torchvision's AlexNet (``alexnet-owt-7be5be79.pth``); null: LPIPS is not computed."""
    fvd_weights: str | None
    """I3D as TorchScript (``i3d_torchscript.pt``); null: FVD is not computed."""
    seed: Count


@dataclass(frozen=True, kw_only=True)
class Features:
    """Latents of the demonstrations."""

    draws: Positive
    """Independent posterior draws per demonstration."""
    sample: Sampling
    burn_in: Count
    """How often the filter sees the first frame of an episode again before it goes on, in
    demonstrations as at evaluation; 0 in the paper. A first latent, drawn from a single look, may
    know little of the scene (docs/policy-learning.md)."""
    context: bool
    """Also store features filtered with the preceding play as context."""
    seed: Count

    @property
    def filtering(self) -> Filtering:
        """How features are filtered."""
        return Filtering(self.sample, self.burn_in)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Roll-outs in the simulator."""

    max_steps: Positive
    max_episodes: Positive | None
    """Held-out starts per task; null: all."""
    ddim_steps: Positive | None
    """Sample actions with so many deterministic DDIM steps, spread over the denoising steps that
    the policy learned; null: with all of these and their noise, as the paper does."""
    clips: bool
    seed: Count


_STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, kw_only=True, config=_STRICT)
class Profile:
    """All settings of one run of the pipeline."""

    device: Literal["auto", "cpu", "cuda"]
    tasks: tuple[Task, ...]
    raw: Raw
    env: Env
    collect: Collect
    index: Index
    convert: Convert
    export: Export
    extract: Extract
    world_model: WorldModelConfig
    train_world_model: WorldModelTraining
    loader: Loader
    features: Features
    reward: RewardConfig
    policy: PolicyConfig
    finetune: FinetuneConfig
    evaluate_world_model: EvaluateWorldModel
    evaluate: Evaluate


def load_profile(name: str, path: Path = PARAMS_FILE) -> Profile:
    """The profile called ``name``.

    Raises WamError for a missing file, an unknown profile, a missing or unknown key or a bad value;
    the message names the key and, where one is close, what was probably meant.
    """
    if not path.is_file():
        raise WamError(f"{path}: not found; run from the root of the repository")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise WamError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise WamError(f"{path}: expected a mapping of profiles")
    if name not in document:
        raise WamError(f"{path}: unknown profile '{name}'{_suggestion(name, document)}")
    profile = document[name]
    if not isinstance(profile, dict):
        raise WamError(f"{path}: profile '{name}' is not a mapping")
    _check_keys(Profile, profile, f"{path}: {name}")
    try:
        checked_profile = TypeAdapter(Profile).validate_python(profile)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (name, *first["loc"]))
        raise WamError(
            f"{path}: {key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
        ) from None
    _check_relations(checked_profile, f"{path}: {name}")
    return checked_profile


def _check_keys(kind: type, mapping: dict[str, Any], where: str) -> None:
    names = {field.name: field.type for field in fields(kind)}
    for key, value in mapping.items():
        if key not in names:
            raise WamError(f"{where}: unknown parameter '{key}'{_suggestion(key, names)}")
        section = names[key]
        if isinstance(section, type) and is_dataclass(section):
            if not isinstance(value, dict):
                raise WamError(f"{where}.{key}: expected a section, got {value!r}")
            _check_keys(section, value, f"{where}.{key}")
    for key in names:
        if key not in mapping:
            raise WamError(f"{where}: missing parameter '{key}'")


_MAY_BE_ZERO = {
    "seed",
    "seeds",
    "warmup",
    "action_warmup",
    "critic_warmup",
    "play_starts_per_task",
    "play_windows_per_task",
    "burn_in",
    "workers",
}


def _check_numbers(section: Any, where: str) -> None:
    """Nothing here is ever negative, and no count is zero but those that say so."""
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            _check_numbers(value, f"{where}.{field.name}")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float):
                continue
            if number < 0:
                raise WamError(f"{where}.{field.name} = {number!r}: must not be negative")
            if number == 0 and type(number) is int and field.name not in _MAY_BE_ZERO:
                raise WamError(f"{where}.{field.name} = 0: must be positive")


def _check_relations(profile: Profile, where: str) -> None:
    """What no single field can say."""
    _check_numbers(profile, where)
    convert, training = profile.convert, profile.train_world_model
    _check_convert(convert, f"{where}.convert")
    if convert.shard_frames % convert.chunk_frames:
        nearest = convert.shard_frames // convert.chunk_frames * convert.chunk_frames
        raise WamError(
            f"{where}.convert: shard_frames={convert.shard_frames} is not a multiple of "
            f"chunk_frames={convert.chunk_frames}; use {nearest + convert.chunk_frames}"
        )
    if not profile.tasks:
        raise WamError(f"{where}: tasks must not be empty")
    if len(profile.policy.hidden) % 2 == 0:
        raise WamError(
            f"{where}.policy.hidden: needs an odd number of widths (one input layer, then pairs)"
        )
    if profile.finetune.finetuned_steps > profile.policy.diffusion_steps:
        raise WamError(
            f"{where}.finetune.finetuned_steps={profile.finetune.finetuned_steps} is more than "
            f"policy.diffusion_steps={profile.policy.diffusion_steps}"
        )
    _check_ddim(profile, where)
    _check_finetune(profile.finetune, f"{where}.finetune")
    fewest = profile.world_model.id_steps + 1
    if training.window < fewest:
        raise WamError(
            f"{where}.train_world_model.window={training.window}: needs at least {fewest}, "
            "one more than world_model.id_steps"
        )
    model = profile.world_model
    if model.seed_match_scale and not model.embedding_image_scale:
        raise WamError(
            f"{where}.world_model.seed_match_scale={model.seed_match_scale}: there is nothing to "
            "match without embedding_image_scale"
        )
    if not training.lr > 0:
        raise WamError(f"{where}.train_world_model.lr={training.lr}: must be positive")
    if not 0 < training.image_frames <= 1:
        raise WamError(
            f"{where}.train_world_model.image_frames={training.image_frames}: a share of the "
            "frames, above 0 and at most 1"
        )


def _check_ddim(profile: Profile, where: str) -> None:
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
    if not finetune.start_curriculum <= 1:
        raise WamError(
            f"{where}.start_curriculum={finetune.start_curriculum}: a share of the iterations, "
            "expected 0 to 1"
        )
    if not math.isfinite(finetune.disagreement_scale):
        raise WamError(
            f"{where}.disagreement_scale={finetune.disagreement_scale}: expected a finite number"
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


def _check_convert(convert: Convert, where: str) -> None:
    for name in ("cameras", "extra_keys", "scenes"):
        values = getattr(convert, name)
        if values is not None and len(set(values)) < len(values):
            raise WamError(f"{where}.{name}: names {max(values, key=values.count)} twice")
    for name in ("cameras", "scenes"):
        if getattr(convert, name) == ():
            raise WamError(f"{where}.{name}: must not be empty")
    if convert.image_size is not None and convert.image_size < IMAGE_SIZE:
        raise WamError(
            f"{where}.image_size={convert.image_size}: needs at least {IMAGE_SIZE}, which the "
            "world model sees, or null for the recorded size"
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


def _suggestion(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in known], n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(str(key) for key in known)}"
