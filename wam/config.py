"""Settings of the models and algorithms as plain frozen dataclasses.

Defaults are the paper's (arXiv:2603.28955) or, where it is silent, the reference values of the
systems it builds on. The profiles of ``params.yaml`` spell every field out.

The range of a field is part of its type. Nothing here checks it: who reads settings from a file has
to (``pipeline.params``). No number may be infinite or NaN.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from annotated_types import Interval, Len, MultipleOf

TASKS = (
    "open_drawer",
    "close_drawer",
    "move_slider_left",
    "move_slider_right",
    "turn_on_lightbulb",
    "turn_off_lightbulb",
    "turn_on_led",
    "turn_off_led",
)
"""The eight tasks of DiWA and WAM, in the fixed order that consumes seeds."""

VARIANTS = ("wam", "dreamerv2")
"""``wam`` trains the inverse-dynamics head; ``dreamerv2`` is the same model with that weight 0."""

IMAGE_SIZE = 64
PROPRIO_SIZE = 18
POSE_SIZE = 6
"""Position and Euler angles of the TCP."""
ARM_STATE_SIZE = POSE_SIZE + PROPRIO_SIZE
"""Of what states carry of the arm: the lag of its hand, and proprioception."""
ACTION_SIZE = 7
POSITION_STEP_M, ROTATION_STEP_RAD = 0.02, 0.05
"""One unit of a relative action."""
ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
CHUNK = 4
"""Environment steps per policy decision."""
CAMERA_NAMES = ("static", "gripper")
FPS = 30

Count = Annotated[int, Interval(ge=1, le=10**9)]
CountFromZero = Annotated[int, Interval(ge=0, le=10**9)]
"""As :data:`Count`, or 0."""
Width = Annotated[int, Interval(ge=1, le=16_384)]
"""Outputs of a layer: far more would not end in a sentence but in a machine without memory."""
Rows = Annotated[int, Interval(ge=1, le=65_536)]
"""What is computed at once, in one tensor."""
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Share = Annotated[float, Interval(ge=0, le=1)]
Weight = Annotated[float, Interval(ge=0, le=1e9)]
Rate = Annotated[float, Interval(ge=1e-12, le=1)]
"""A learning rate."""
FinalRate = Annotated[float, Interval(ge=0, le=1)]
"""A learning rate that another one falls to."""
Decay = Annotated[float, Interval(ge=0, le=1e3)]
"""A weight decay, by which a learning rate is multiplied."""


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Sizes and loss weights of the world model (DreamerV2; WAM for the inverse-dynamics head)."""

    cnn_depth: Annotated[int, Interval(ge=1, le=512)] = 48
    """Channels of the first convolution; the next have 2, 4 and 8 times as many."""
    visual_embedding: Width = 1536
    decoder_channels: Width = 1536
    deter: Width = 1024
    stoch: Annotated[int, Interval(ge=1, le=4096)] = 32
    """Number of categorical variables."""
    classes: Annotated[int, Interval(ge=2, le=256)] = 32
    """Classes of each categorical variable."""
    latent: Literal["one_hot", "probabilities"] = "one_hot"
    """What stands for the categoricals in the state: a draw (the papers), or their class
    probabilities. Those pass on all that a posterior knows, a dream made of them is one prediction
    and no lottery, and gradients reach every class (docs/learning.md)."""
    proprio_state: bool = False
    """The state carries proprioception itself, seen where a frame is seen, in imagination moved by
    the action (``wam.world_model.proprio_state``). Off in the papers."""
    hidden: Width = 1000
    gru: Literal["plain", "layernorm"] = "plain"
    """Recurrent cell: the plain one, or DreamerV2's with a LayerNorm inside and update bias -1."""
    keep_bias: Annotated[float, Interval(ge=-10, le=10)] = 0.0
    """Initial bias of the plain cell's gate that keeps the old state: above 0 it remembers from the
    beginning (chrono initialisation, arXiv:1804.11188)."""
    proprioception: bool = True
    """Whether the embedding has proprioception beside what it makes of the images (the papers);
    off, it holds zeros there: model, head and policy know the arm from images alone."""
    distractors: bool = False
    """Every image that this model sees, in training as in evaluation, is disturbed by what no
    action causes: light, a shaking camera, drifting squares (``wam.distractors``)."""
    id_hidden: Annotated[tuple[Width, ...], Len(0, 99)] = (512, 256)
    """Hidden widths of the inverse-dynamics head."""
    id_input: Literal["visual+proprio", "visual", "proprio-dropout"] = "visual+proprio"
    """What the head sees of both frames: the whole embedding (the paper), its visual part, or the
    whole with the proprioception of both hidden in half of the pairs."""
    id_steps: Rows = 1
    """The head predicts the actions between frames that are so many steps apart."""
    kl_scale: Weight = 3.0
    image_scale: Weight = 1.0
    embedding_image_scale: Weight = 0.0
    """Weight of the same image loss with the embedding in the latent's place, through a layer that
    serves nothing else (not in the papers). An encoder learns from images only what passes through
    the sampled latent; in a short training that is not much (docs/learning.md)."""
    view_reach: CountFromZero = 0
    """0: an embedding has to show the images of its own frame. More: those of other frames of the
    episode, up to so many before and behind the window, whose proprioception is given (not in the
    papers). Where the arm was is then nothing that an embedding has to keep, and what it hides
    from one place it does not hide from another: what is left to tell is the scene."""
    seed_match_scale: Weight = 0.0
    """Weight of half the squared distance between what the decoder makes of the latent and of the
    embedding before any convolution (not in the papers; needs ``embedding_image_scale``). It asks
    every frame's latent for all that the embedding shows, where images are decoded of a few."""
    action_scale: Weight = 1000.0
    """Weight of the inverse-dynamics loss in the ``wam`` variant."""
    kl_balance: Share = 0.8
    """Share of the KL that trains the prior."""
    free_nats: Weight = 0.0
    unimix: Annotated[float, Interval(ge=0, lt=1)] = 0.0

    @property
    def feature(self) -> int:
        """Size of f = [deter; stoch], with proprioception behind it where states carry that."""
        carried = ARM_STATE_SIZE if self.proprio_state else 0
        return self.deter + self.stoch * self.classes + carried


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining:
    """Optimisation of the world model."""

    batch: Rows = 500
    window: Rows = 50
    updates: Count = 230_000
    lr: Rate = 3e-4
    lr_final: FinalRate | None = None
    """Learning rate at the end of the run, reached along a cosine; None: constant (the paper)."""
    weight_decay: Decay = 0.05
    adam_eps: Annotated[float, Interval(ge=1e-30, le=1)] = 1e-5
    image_optimizer: Literal["adamw", "muon"] = "adamw"
    """What trains the matrices and kernels of encoder and decoder: AdamW as everything else (the
    paper), or Muon, with which images take a fraction of the updates (docs/learning.md)."""
    muon_lr: Rate = 2e-3
    """Muon's learning rate where AdamW's is ``lr``; it falls along with it."""
    grad_clip: Annotated[float, Interval(gt=0, le=1e9)] = 100.0
    action_warmup: CountFromZero = 0
    """Updates over which the inverse-dynamics weight rises linearly from 0."""
    reset_probability: Share = 0.01
    """Chance of a pseudo-reset per frame."""
    image_frames: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of every window's frames, drawn anew for every batch, whose images are reconstructed.
    Neighbouring frames are much alike and decoding is most of an update: on a CPU a share of 0.25
    makes nearly twice as many updates in the same time. The loss has the same expectation."""
    compat: Literal["none", "diwa"] = "none"
    """``diwa`` repeats what the reference does and this project does not: a pseudo-reset leaves the
    previous action, a row that jumps into another episode keeps its state, and weight decay covers
    biases and norms too (docs/algorithm.md 1.6, 1.7, 2.8)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 on a GPU that has it, fp32 elsewhere."""
    threads: Annotated[int, Interval(ge=1, le=1024)] | None = None
    """Threads that compute the model on a CPU, here, for features and for its own evaluation: on
    their number last bits depend. None: as many as a stage is given. Small networks gain next to
    nothing by a second one."""
    data_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of the training split that the model learns from: its first episodes that hold so many
    of the frames. Every later stage sees the whole split, by which proprioception is scaled too."""
    frames: Count | None = None
    """Stop after so many frames, if that is before ``updates``."""
    minutes: Annotated[float, Interval(gt=0, le=1e9)] | None = None
    """Stop after so many minutes of training, if that is before ``updates``."""
    checkpoint_every: Count = 1000
    keep_checkpoints: Count = 2
    weights: Literal["last", "best"] = "last"
    """Which weights a finished run hands on: the last, or those of the best open-loop PSNR."""
    validate_every: Count = 1000
    log_every: Count = 50
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Second stage of a world model's training (not in the papers; docs/world-model.md): the
    recurrent model alone, on embeddings of a frozen encoder, learns to go on without looking.
    """

    updates: CountFromZero = 0
    """0: no second stage (the papers)."""
    batch: Rows = 32
    window: Rows = 16
    lr: Rate = 2e-3
    """Falls to a hundredth along a cosine."""
    weight_decay: Decay = 0.01
    reset_probability: Share = 0.02
    """Chance of a pseudo-reset per frame."""
    blind_probability: Share = 0.03
    """Chance per frame that a row that sees goes blind: its state goes on with what the prior
    predicts, as in imagination."""
    sight_probability: Share = 0.03
    """Chance per frame that a blind row sees again."""
    first_looks: Share = 0.0
    """Share of the rows whose windows begin as imagination does: with a random frame, looked at for
    half of the window, after which they are blind."""
    target_scale: Weight = 30.0
    """Weight of half the squared error with which a linear layer tells the frame from the state."""
    components: Width = 64
    """Principal components of the visual embeddings, each scaled to variance 1, that are told
    beside the proprioception: what is small in an image, as a lamp, counts like what is large."""
    log_every: Count = 100
    seed: Seed = 0


Sampling = Literal["sample", "mode"]
"""How a latent is taken from its distribution."""


class Filtering(NamedTuple):
    """How images are filtered into latents."""

    sample: Sampling = "sample"
    burn_in: int = 0
    """How often a first frame is seen again before the episode goes on, as if the robot rested."""


FILTERING = Filtering()
"""That of the paper: one look, one draw."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Diffusion policy (DPPO's DiffusionMLP) and its behaviour cloning."""

    hidden: Annotated[tuple[Width, ...], Len(1, 99)] = (512, 512, 512)
    diffusion_steps: Annotated[int, Interval(ge=1, le=1000)] = 20
    time_embedding: Annotated[int, Interval(ge=4, le=1024), MultipleOf(2)] = 16
    updates: Count = 55_000
    batch: Rows = 256
    lr: Rate = 1e-4
    lr_final: FinalRate = 1e-5
    weight_decay: Decay = 1e-6
    warmup: CountFromZero = 1000
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    context_probability: Share = 0.25
    """Share of training windows whose feature comes from the long-context filter."""
    log_every: Count = 500
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Success classifier on latent features."""

    encoder_hidden: Width = 1024
    embedding: Width = 256
    head_hidden: Width = 1024
    heads: Annotated[int, Interval(ge=1, le=100)] = 1
    """Size of the ensemble; success needs all heads to agree."""
    temperature: Annotated[float, Interval(ge=1e-3, le=1e3)] = 0.5
    contrastive_scale: Weight = 1.0
    cross_entropy_scale: Weight = 0.5
    lr: Rate = 1e-4
    weight_decay: Decay = 1e-4
    batch: Rows = 32
    epochs: Count = 50
    negatives_per_demo: Count = 10
    near_miss_weight: Weight = 2.0
    calibration: Literal["frames", "windows"] = "frames"
    """Where epoch and threshold come from. ``frames``: precision on frames of the validation
    demonstrations, as in DiWA. ``windows``: whole windows, a fifth of the training ones, which
    nothing is trained on; what the evaluation starts from is not looked at."""
    target_precision: Share = 0.95
    """Precision on imagined validation features at which the threshold is set, with ``frames``."""
    max_false_alarms: Share = 0.02
    """Share of imagined windows without success in which the classifier may see one at a decision,
    with ``windows``."""
    min_window_recall: Share = 0.8
    """Share of imagined successes that it has to see then, for the target to be met."""
    reach: Annotated[float, Interval(ge=0, le=4)] = 0.0
    """Believe in a success only with the hand so close to where it was at recorded ones, in units
    of the state (``world_model.proprio_state``), of which play spans 4 along every axis; 0:
    anywhere. A dream knows hands better than what they do."""
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """DPPO inside the frozen world model."""

    environment: Literal["world_model", "simulator"] = "world_model"
    """``simulator``: the same optimisation on steps of the simulator with the oracle's reward; not
    the paper's method but an upper bound for it."""
    envs: Rows = 50
    steps: Rows = 36
    """Decisions per environment and iteration."""
    max_decisions: Rows = 18
    iterations: Count = 800
    finetuned_steps: Count = 10
    """How many of the last denoising steps are trained."""
    critic_hidden: Annotated[tuple[Width, ...], Len(1, 99)] = (256, 256, 256)
    actor_lr: Rate = 1e-5
    critic_lr: Rate = 1e-3
    critic_warmup: CountFromZero = 2
    epochs: Count = 10
    minibatch: Count = 7500
    minibatch_over: Literal["pair", "decision"] = "pair"
    advantage: Literal["gae", "group"] = "gae"
    """What weighs the decisions: a critic's estimates (the paper), or the outcome of an episode
    against those of others from the same start (GRPO, arXiv:2402.03300), without a critic."""
    group: Count = 5
    """Episodes per start state if ``advantage`` is ``group``."""
    start_curriculum: Share = 0.0
    """Share of the iterations over which the starts in demonstrations move back from frames near
    the success to the first ones, with which all later iterations start."""
    disagreement_scale: Weight = 0.0
    """Weight of the penalty for imagined states and actions unlike the data, which is how much more
    an ensemble disagrees on them than on the data."""
    disagreement_heads: Annotated[int, Interval(ge=1, le=100)] = 5
    """Size of the ensemble; there is none if ``disagreement_scale`` is 0."""
    gamma: Share = 0.999
    gae_lambda: Share = 0.95
    denoising_gamma: Share = 0.99
    clip_base: Annotated[float, Interval(gt=0, lt=1)] = 0.001
    clip_max: Annotated[float, Interval(gt=0, lt=1)] = 0.01
    min_std: Annotated[float, Interval(ge=1e-3, le=10)] = 0.1
    value_scale: Weight = 0.5
    bc_scale: Weight = 0.025
    target_kl: Annotated[float, Interval(gt=0, le=1e9)] = 1.0
    outcome_floor: Annotated[float, Interval(ge=0, le=0.5)] = 0.0
    """Standard deviation of an iteration's outcomes (success 1, failure 0) below which the actor's
    steps shrink in proportion: normalised advantages and Adam make full steps of mere noise. 0
    never shrinks them."""
    min_imagined_precision: Share = 0.8
    """Below this precision of the reward classifier on imagined features the run warns or stops."""
    min_window_auc: Share = 0.9
    """``gate: keep``: below this area under ROC of imagined training windows, with and without
    success, there is nothing to learn from the classifier."""
    gate: Literal["warn", "stop", "keep"] = "warn"
    """What comes of a dream that is not to be trusted: a warning, an error, or the clone, which
    also stays if imagined success from held-out starts falls, or stays equal while that from
    training starts does not rise."""
    validate_every: Count = 10
    """Iterations between two looks at imagined success on training and on held-out starts."""
    checkpoint_every: Count = 10
    seeds: Annotated[tuple[Seed, ...], Len(0, 1000)] = (0, 1, 2)
    """A policy for each; none: clones are all that is wanted."""
