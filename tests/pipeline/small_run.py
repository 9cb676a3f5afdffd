"""A run up to the fine-tuning, on small made-up artifacts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.layout import Layout
from pipeline.latents.features import SplitFeatures, TaskFeatures, save_features
from pipeline.params import Profile, load_profile
from pipeline.stages import train_policy, train_reward
from tests.pipeline.artifact import artifact
from wam.actions import executable
from wam.config import WorldModelConfig
from wam.proprio import ProprioNormalizer
from wam.weights import save_model
from wam.world_model.load import world_model_config
from wam.world_model.model import WorldModel

TASK = "close_drawer"
VARIANT = "wam"
CPU = torch.device("cpu")
CONFIG = WorldModelConfig(
    cnn_depth=4,
    visual_embedding=16,
    decoder_channels=16,
    deter=16,
    stoch=4,
    classes=4,
    hidden=16,
    id_hidden=(8,),
)


def random_features(shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    deter = torch.rand(*shape, CONFIG.deter, generator=random).half().float()
    classes = torch.randint(CONFIG.classes, (*shape, CONFIG.stoch), generator=random)
    one_hot = torch.nn.functional.one_hot(classes, CONFIG.classes).float().flatten(-2)
    return torch.cat([deter, one_hot], dim=-1)


def make_split(demos: int, random: torch.Generator, row: int = 0) -> SplitFeatures:
    """Demonstrations of 20 frames, one after the other from ``row`` on; the last five of each are
    successes, told by the first feature."""
    frames = demos * 20
    label = (torch.arange(frames) % 20) >= 15
    posterior, imagined = (random_features((2, frames), random) for _ in range(2))
    posterior[..., 0] = imagined[..., 0] = label.float()
    return SplitFeatures(
        posterior=posterior,
        imagined=imagined,
        context=random_features((frames,), random),
        glimpsed=random_features((1, frames), random),
        action=executable(torch.rand(frames, 7, generator=random) * 2 - 1),
        label=label,
        scene_obs=torch.zeros(frames, 24),
        length=torch.full((demos,), 20),
        start=row + 20 * torch.arange(demos),
    )


def make_features() -> TaskFeatures:
    random = torch.Generator().manual_seed(0)
    training, validation = make_split(6, random), make_split(3, random)
    demo_starts = random_features((2, 6), random)
    demo_starts[..., 0] = 0.0  # as in the frames: the label
    return TaskFeatures(
        training=training,
        validation=validation,
        demo_starts=demo_starts,
        validation_starts=random_features((2, 3), random),
        play_starts=random_features((2, 5), random),
        play_start_rows=1000 * torch.arange(1, 6),
        training_play=make_split(4, random, row=6 * 20),
        validation_play=make_split(2, random),
    )


@pytest.fixture
def profile() -> Profile:
    profile = load_profile("ci", Path(__file__).parents[2] / "params.yaml")
    return replace(
        profile,
        device="cpu",
        parallel=replace(profile.parallel, workers=1),
        world_model=CONFIG,
        policy=replace(profile.policy, updates=20, warmup=2, log_every=10, hidden=(16,)),
        reward=replace(profile.reward, epochs=6, lr=1e-2),
        finetune=replace(profile.finetune, envs=4, steps=3, iterations=4, minibatch=30),
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    model = WorldModel(CONFIG)
    normalizer = ProprioNormalizer(np.zeros(18), np.ones(18))
    with artifact(layout.world_model(VARIANT), "train-world-model") as directory:
        save_model(directory, model, world_model_config(model, VARIANT, normalizer))
    with artifact(layout.features(VARIANT), "featurize") as directory:
        save_features(directory / TASK, make_features(), CONFIG)
    return layout


@pytest.fixture
def trained(profile: Profile, layout: Layout) -> Layout:
    """Up to the fine-tuning."""
    train_reward.run(profile, layout, VARIANT)
    train_policy.run(profile, layout, VARIANT)
    return layout


class Killed(Exception):
    pass
