"""A world in which a chunk succeeds if its mean motion is above 0.3, and a policy for it."""

from typing import NamedTuple

import torch

from wam.config import FinetuneConfig, PolicyConfig
from wam.policy.cloning import ChunkDataset, clone
from wam.policy.network import DiffusionMlp
from wam.randomness import Generators

FEATURE = 2
CPU = torch.device("cpu")
POLICY = PolicyConfig(
    hidden=(64, 64, 64),
    diffusion_steps=10,
    updates=600,
    batch=128,
    lr=3e-3,
    warmup=20,
    ema_decay=0.98,
    log_every=600,
)
FINETUNE = FinetuneConfig(
    envs=64,
    steps=6,
    max_decisions=1,
    iterations=20,
    finetuned_steps=5,
    critic_hidden=(32, 32, 32),
    actor_lr=1e-3,
    critic_lr=1e-3,
    epochs=5,
    minibatch=480,
    gamma=0.0,  # one decision per episode: nothing to look forward to
    clip_base=0.01,
    clip_max=0.1,
)


class BanditState(NamedTuple):
    feature: torch.Tensor
    """[B, 2]: mean motion so far, unused"""


class BanditDynamics:
    def split(self, feature: torch.Tensor) -> BanditState:
        return BanditState(torch.zeros_like(feature))

    def imagine_step(
        self, state: BanditState, action: torch.Tensor, generator: Generators
    ) -> BanditState:
        motion = torch.zeros_like(state.feature)
        motion[:, 0] = action[:, :6].mean(1) / 4
        return BanditState(state.feature + motion)


class BanditSuccess:
    def success(self, feature: torch.Tensor) -> torch.Tensor:
        return feature[:, 0] > 0.3


def train_base(seed: int) -> DiffusionMlp:
    """A policy whose chunks move by an offset between -0.4 and 0.6."""
    random = torch.Generator().manual_seed(seed)
    offset = torch.rand(512, 1, generator=random) - 0.4
    chunks = (offset + 0.05 * torch.randn(512, 28, generator=random)).clamp(-1, 1)
    data = ChunkDataset(torch.zeros(1, 512, FEATURE), None, chunks, torch.arange(512))
    none = ChunkDataset(data.features, None, chunks[:0], data.rows[:0])
    return clone(POLICY, data, none, random, CPU, lambda record: None)
