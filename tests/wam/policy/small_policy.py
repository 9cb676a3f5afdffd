"""A small diffusion policy's sizes and training."""

import torch

from wam.config import PolicyConfig
from wam.policy.network import DiffusionMlp, build_network

FEATURE = 12
CONFIG = PolicyConfig(
    hidden=(128, 128, 128),
    diffusion_steps=10,
    updates=500,
    batch=64,
    lr=3e-3,
    warmup=20,
    ema_decay=0.98,
    log_every=100,
)


def make_network(seed: int) -> DiffusionMlp:
    torch.manual_seed(seed)
    return build_network(CONFIG, FEATURE)


def make_feature(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, FEATURE, generator=torch.Generator().manual_seed(seed))
