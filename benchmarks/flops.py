"""The world model's arithmetic, and how much of it a device does per second."""

from itertools import pairwise
from typing import Any

import torch

from wam import device as devices
from wam.config import ACTION_SIZE, PROPRIO_SIZE, WorldModelConfig

PEAK_TFLOPS = {"A100": 312, "H100 PCIe": 756, "H100": 989, "H200": 989, "L40S": 362, "L4": 121}
"""Dense bfloat16 of GPUs, by a part of their names; the first that fits counts."""


def efficiency(
    config: WorldModelConfig, frames_per_s: float, device: torch.device
) -> dict[str, Any]:
    """Arithmetic of a frame, and how much of it is done per second."""
    # The backward pass takes two products for each one of the forward pass.
    flops = 3 * sum(forward_flops(config).values())
    result: dict[str, Any] = {
        "mflop_per_frame": round(flops / 1e6, 1),
        "gflop_per_s": round(flops * frames_per_s / 1e9, 1),
    }
    name = devices.describe(device)
    peak = next((value for part, value in PEAK_TFLOPS.items() if part in name), None)
    if peak is not None:
        result["mfu"] = round(flops * frames_per_s / (peak * 1e12), 4)
    return result


def forward_flops(config: WorldModelConfig) -> dict[str, int]:
    """FLOP of each part per frame, two per multiply-add (docs/algorithm.md 11).

    The decoder's first linear layer counts once, as the cameras share its result.
    """
    depth, seed = config.cnn_depth, config.decoder_channels
    flat = config.stoch * config.classes
    embedding = config.visual_embedding + PROPRIO_SIZE
    pairs = pairwise((3, depth, 2 * depth, 4 * depth, 8 * depth))
    encoder = sum(
        inputs * outputs * 4**2 * size**2
        for (inputs, outputs), size in zip(pairs, (31, 14, 6, 2), strict=True)
    )
    pairs = pairwise((seed, 4 * depth, 2 * depth, depth, 3))
    decoder = sum(
        inputs * outputs * kernel**2 * size**2
        for (inputs, outputs), kernel, size in zip(pairs, (5, 5, 6, 6), (1, 5, 13, 30), strict=True)
    )
    rssm = (
        (flat + ACTION_SIZE) * config.hidden
        + 3 * config.deter * (config.hidden + config.deter)
        + (2 * config.deter + embedding) * config.hidden
        + 2 * config.hidden * flat
    )
    widths = (2 * embedding, *config.id_hidden, ACTION_SIZE)
    products = {
        "encoder": 2 * encoder,
        "fusion": 2 * 32 * depth * config.visual_embedding,
        "rssm": rssm,
        "decoder_linear": config.feature * seed,
        "decoder": 2 * decoder,
        "inverse_dynamics": sum(inputs * outputs for inputs, outputs in pairwise(widths)),
    }
    return {name: 2 * count for name, count in products.items()}
