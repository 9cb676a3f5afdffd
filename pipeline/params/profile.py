"""The settings of a profile, by section.

The range of a number is part of its field's type, here as in ``wam.config``.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from wam.config import (
    IMAGE_SIZE,
    TASKS,
    Count,
    CountFromZero,
    Filtering,
    FinetuneConfig,
    PolicyConfig,
    Refinement,
    RewardConfig,
    Rows,
    Sampling,
    Seed,
    Share,
    WorldModelConfig,
    WorldModelTraining,
)
from wam.envs.scene_files.arm_model import RobotModel
from wam.envs.settings import Backend, SceneSource, SimulatorConfig, scene_source
from wam.envs.simulator.renderer import Renderer

Pixels = Annotated[int, Interval(ge=1, le=4096)]
Workers = Annotated[int, Interval(ge=1, le=1024)]
FrameCount = Annotated[int, Interval(ge=1, le=10**6)]
"""As many as are held in memory, or in a file, at once."""
PathText = Annotated[str, Field(pattern=r"^[^\x00]+$", max_length=4096)]
"""A path, a URL, or another address."""
Task = Literal[TASKS]  # type: ignore[valid-type]
Camera = Literal["rgb_static", "rgb_gripper"]
Scene = Literal["A", "B", "C", "D"]
SplitName = Literal["training", "validation"]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Tasks and seeds side by side, from the rewards to the evaluation. Shapes no result."""

    workers: Workers | None
    """Processes of a local Dask cluster, one thread each; null: as many as there are cores for the
    stage (OMP_NUM_THREADS where that is set), or one on a GPU. 1: no cluster."""
    dask_address: PathText | None
    """Scheduler to use instead; its workers need this package and the same paths."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Where the CALVIN-format frames are."""

    path: PathText | None
    """Directory with ``training/`` and ``validation/``; null: made by ``wam collect``."""
    annotations: Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=255)] | None
    """Folder of the language annotations in each split; null: ``lang_annotations``, or the only
    other one that there is."""


@dataclass(frozen=True, kw_only=True)
class Env:
    """The simulator, for collection and evaluation alike."""

    backend: Backend
    """``calvin_env``: the official package, which has to be installed; for evaluation only."""
    scene: Scene
    assets: PathText | None
    """Directory of CALVIN's own scene assets; null: the embedded scene. With ``calvin_env``: the
    package's checkout; null: the one that it is installed from."""
    renderer: Renderer
    """``auto``: EGL, as CALVIN's own images, where a GPU draws it, else TinyRenderer. An evaluation
    on images of TinyRenderer stays with it. Without a GPU EGL is several times slower."""
    robot_model: RobotModel
    """Of the embedded scene: ``light`` has few triangles, ``full`` those of the real arm."""
    differences: Literal["refuse", "allow"]
    """What becomes of data that this simulator would not have made: ``refuse`` ends the first stage
    that sees it; with ``allow`` the difference stands beside every number."""
    workers: Workers
    """Simulator processes at a time. With ``calvin_env`` or EGL each holds one environment, and an
    evaluation runs so many episodes at a time; fine-tuning needs one for each of its ``envs``."""

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

    training_frames: Annotated[int, Interval(ge=1, le=10**8)]
    validation_frames: Annotated[int, Interval(ge=1, le=10**8)]
    episode_frames: FrameCount
    static_size: Pixels
    """Pixels of the square static image (CALVIN: 200)."""
    gripper_size: Pixels
    """Pixels of the square wrist image (CALVIN: 84)."""
    actions: Literal["hindsight", "commanded"]
    """What ``rel_actions`` hold. ``hindsight``: how the TCP moved, CALVIN's convention;
    ``commanded``: what the arm was told, which lags behind by 2 cm. Policies command."""
    depth: bool
    """Record depth images too, as CALVIN does; nothing in this pipeline learns from them."""
    max_windows_per_task: Count
    """Most annotated windows per task in the training split."""
    max_starts_per_task: Count
    """Most annotated windows per task in the validation split."""
    noise: Share
    """Scale of the experts' action noise."""
    fumbles: Share
    """Chance that the first attempt at a task is a failure, mostly. From play that always succeeds
    no world model learns where success ends."""
    partial_moves: Share
    """Share of the failures at a door or the drawer that move it part of the way and leave it,
    a quarter of them just far enough."""
    miss_again: Share
    """Chance that a failure is followed by the task's motion beside its object, and so on: of hands
    that pull at nothing play has little else."""
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Index:
    """The listing of raw frames."""

    verify: Literal["size", "mtime", "md5"]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Raw frames to the sharded Zarr store."""

    cameras: Annotated[tuple[Camera, ...], Len(1)]
    """Training needs both; one is enough for other uses."""
    image_size: Annotated[int, Interval(ge=IMAGE_SIZE, le=4096)] | None
    """Pixels of the square images in the store, area-interpolated; null: as recorded. The world
    model sees 64, to which its readers resize larger ones."""
    depth: bool
    """Store the cameras' depth images too."""
    extra_keys: tuple[str, ...]
    """Further arrays of the raw frames, stored as they are."""
    scenes: Annotated[tuple[Scene, ...], Len(1)] | None
    """Training episodes of these scenes alone; null: all. The validation split stays whole."""
    frames: dict[SplitName, tuple[tuple[CountFromZero, CountFromZero], ...]] | None
    """Ranges [first, last] of frame ids, both inclusive, by split; null or no entry: all frames. An
    episode that a range cuts becomes a shorter one."""
    shard_frames: FrameCount
    chunk_frames: Annotated[int, Interval(ge=1, le=10_000)]
    zstd_level: Annotated[int, Interval(ge=1, le=22)]
    on_error: Literal["fail", "skip-episode"]
    """What becomes of missing, damaged or invalid frames: ``skip-episode`` leaves them out, and of
    their episode keeps what is whole for 64 frames and more."""
    workers: Workers
    dask_address: PathText | None
    """Scheduler to use instead of a local cluster."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """The store as WebDataset shards."""

    sequence_frames: FrameCount
    sequences_per_shard: FrameCount


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Demonstrations and start states from the annotations."""

    demos_per_task: Count
    play_starts_per_task: CountFromZero
    """Further starts of imagined episodes beside those of the demonstrations, at most so many."""
    further_starts: Literal["play", "annotated"]
    """Which ones. ``play``: frames of play that satisfy the task's pre-condition, wherever the arm
    is; ``annotated``: first frames of the annotated windows that are no demonstrations, from which
    somebody did the task."""
    play_windows_per_task: CountFromZero
    """Windows of play in each split from which the reward learns beside the demonstrations, and on
    which it is calibrated; labels are the oracle's, as those of demonstrations. 0: demonstrations
    alone (the paper)."""
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How the training of the world model reads its batches."""

    reader: Literal["streams", "windows", "shards"]
    """Contiguous streams with carried state, or random windows, from the store; or random windows
    from the WebDataset shards, tar by tar."""
    shards: PathText | None
    """Directory or URL of the shards; null: those that ``wam export`` makes."""
    cache: Literal["none", "ram", "memmap"]
    """Decode frames whenever they are read, or keep them in memory, or in a file that processes
    share (25 kB per frame)."""
    workers: Annotated[int, Interval(ge=0, le=1024)]
    """Threads that prepare batches; 0: none beside training itself."""


@dataclass(frozen=True, kw_only=True)
class EvaluateWorldModel:
    """Open-loop prediction on held-out play, and what the encoder knows of actions."""

    open_loop_sequences: Rows
    """Held-out sequences; those on which training validates are drawn in the same way."""
    open_loop_steps: Rows
    """Predicted frames of each, after the given one."""
    probe_sequences: Rows
    """Training sequences, equally long, from which the action probes learn."""
    lpips_weights: PathText | None
    """torchvision's AlexNet (``alexnet-owt-7be5be79.pth``); null: LPIPS is not computed."""
    fvd_weights: PathText | None
    """I3D as TorchScript (``i3d_torchscript.pt``); null: FVD is not computed."""
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Features:
    """Latents of the demonstrations."""

    draws: Annotated[int, Interval(ge=1, le=1000)]
    """Independent posterior draws per demonstration."""
    sample: Sampling
    burn_in: Annotated[int, Interval(ge=0, le=10_000)]
    """How often the filter sees the first frame of an episode again before it goes on, in
    demonstrations as at evaluation; 0 in the paper. A first latent, drawn from a single look, may
    know little of the scene (docs/policy-learning.md)."""
    context: bool
    """Also store features filtered with the preceding play as context."""
    glimpses: Annotated[tuple[Share, ...], Len(0, 100)]
    """For each of these chances a further copy of the demonstrations for cloning, filtered with
    looks at so many of their frames; none in the paper. A policy that saw every frame of a few
    demonstrations has learned them by heart, and knows no state of imagination."""
    seed: Seed

    @property
    def filtering(self) -> Filtering:
        """How features are filtered."""
        return Filtering(self.sample, self.burn_in)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Roll-outs in the simulator."""

    max_steps: Count
    max_episodes: Count | None
    """Held-out starts per task; null: all."""
    ddim_steps: Count | None
    """Sample actions with so many deterministic DDIM steps, spread over the denoising steps that
    the policy learned; null: with all of these and their noise, as the paper does."""
    look_every: CountFromZero
    """Frames between two looks of a policy, which in between acts on what the world model predicts;
    1: at every frame, as in the paper; 0: at the first frame alone (docs/policy-learning.md). So it
    is in ``finetune.environment: simulator`` too."""
    look_every_of: dict[Task, CountFromZero]
    """``look_every`` of tasks that need another: often for those whose dreams are less true."""
    clips: bool
    seed: Seed

    def looks_of(self, task: str) -> int:
        """Frames between two looks at ``task``."""
        return self.look_every_of.get(task, self.look_every)


# No True for 1, no "5" for 5, no infinity.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@checked(frozen=True, kw_only=True, config=_STRICT)
class Profile:
    """All settings of one run of the pipeline."""

    device: Literal["auto", "cpu", "cuda"]
    tasks: tuple[Task, ...]
    """Empty: for stores and world models alone, which need no annotations."""
    parallel: Parallel
    raw: Raw
    env: Env
    collect: Collect
    index: Index
    convert: Convert
    export: Export
    extract: Extract
    world_model: WorldModelConfig
    train_world_model: WorldModelTraining
    refine_world_model: Refinement
    loader: Loader
    features: Features
    reward: RewardConfig
    policy: PolicyConfig
    finetune: FinetuneConfig
    evaluate_world_model: EvaluateWorldModel
    evaluate: Evaluate
