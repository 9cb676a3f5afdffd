"""Convolutional encoder and decoder of the world model (docs/algorithm.md 2.1 and 2.3).

Two cameras with the same architecture and separate weights. Images are channels-last in memory, in
which convolutions are faster (docs/performance.md).

N = images, C = channels, H, W = pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-3

_ENCODER_KERNEL = 4
_ENCODED_SIZE = 2
"""64 -> 31 -> 14 -> 6 -> 2 pixels with kernel 4 and stride 2."""


class ImageEncoder(nn.Module):
    """One camera's CNN: four convolutions of stride 2, each followed by ELU."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        channels = (3, depth, 2 * depth, 4 * depth, 8 * depth)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, _ENCODER_KERNEL, stride=2)
            for inputs, outputs in pairwise(channels)
        )
        self.out_features = channels[-1] * _ENCODED_SIZE**2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[N, 32 depth] of ``image`` [N, 3, 64, 64] in [-1, 1]."""
        for convolution in self.convolutions:
            image = F.elu(convolution(image), inplace=True)
        return image.permute(0, 2, 3, 1).flatten(1)


class Encoder(nn.Module):
    """Both cameras fused into one visual embedding."""

    def __init__(self, depth: int, embedding: int) -> None:
        super().__init__()
        self.static = ImageEncoder(depth)
        self.gripper = ImageEncoder(depth)
        features = self.static.out_features + self.gripper.out_features
        self.fusion = nn.Linear(features, embedding)
        self.norm = nn.LayerNorm(embedding, eps=NORM_EPS)

    def forward(self, static: torch.Tensor, gripper: torch.Tensor) -> torch.Tensor:
        """Visual embedding [N, V] of two images [N, 3, 64, 64] in [-1, 1]."""
        features = torch.cat([self.static(static), self.gripper(gripper)], dim=-1)
        return F.elu(self.norm(self.fusion(features)))


class ImageDecoder(nn.Module):
    """One camera's transposed CNN from a vector to the mean image: 1, 5, 13, 30, 64 pixels.

    The result is the mean of a unit-variance Gaussian in [-1, 1] space and is not clamped.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.first = nn.ConvTranspose2d(channels, 4 * depth, kernel_size=5, stride=2)
        self.second = nn.ConvTranspose2d(4 * depth, 2 * depth, kernel_size=5, stride=2)
        self.third = nn.ConvTranspose2d(2 * depth, depth, kernel_size=6, stride=2)
        self.fourth = nn.ConvTranspose2d(depth, 3, kernel_size=6, stride=2)

    def forward(self, seed: torch.Tensor) -> torch.Tensor:
        """Image [N, 3, 64, 64] of ``seed`` [N, channels]."""
        return merge_phases(self.phases(seed))

    def phases(self, seed: torch.Tensor) -> torch.Tensor:
        """The image as its four :func:`pixel_phases` [N, 12, 32, 32]."""
        # Not in place: in the gradient of a view that costs three copies.
        image = F.elu(_expand_pixel(seed, self.first))
        image = F.elu(_deconvolve(image, self.second), inplace=True)
        image = F.elu(_deconvolve(image, self.third), inplace=True)
        return _deconvolve_phases(image, self.fourth)


class Decoder(nn.Module):
    """Images of both cameras from a latent feature; the first linear layer serves both."""

    def __init__(self, feature: int, channels: int, depth: int) -> None:
        super().__init__()
        self.seed = nn.Linear(feature, channels)
        self.static = ImageDecoder(channels, depth)
        self.gripper = ImageDecoder(channels, depth)

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Static and gripper images [N, 3, 64, 64] of ``feature`` [N, F]."""
        seed = self.seed(feature)
        return self.static(seed), self.gripper(seed)

    def phases(self, seed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images of a ``seed`` [N, channels] as :meth:`ImageDecoder.phases`."""
        return self.static.phases(seed), self.gripper.phases(seed)


class ViewSeed(nn.Module):
    """What a decoder draws of a visual embedding where the arm is as another frame has it."""

    def __init__(self, visual: int, proprio: int, channels: int) -> None:
        super().__init__()
        self.scene = nn.Linear(visual, channels)
        self.arm = nn.Linear(proprio, channels)
        self.view = nn.Linear(channels, channels)
        self.skip = nn.Linear(visual, channels)

    def forward(self, visual: torch.Tensor, proprio: torch.Tensor) -> torch.Tensor:
        """[..., channels] of embeddings [..., visual] and proprioception [..., proprio]."""
        return self.view(F.elu(self.scene(visual) + self.arm(proprio))) + self.skip(visual)


def pixel_phases(image: torch.Tensor) -> torch.Tensor:
    """The four pixel phases [N, 12, H/2, W/2] of a channels-last ``image`` [N, 3, H, W].

    Pixel (2 i + y, 2 j + x) of channel c is phase channel 6 y + 3 x + c at (i, j): in this order
    the six values of two neighbouring pixels stay together in memory.
    """
    n, _, height, width = image.shape
    pairs = image.permute(0, 2, 3, 1).reshape(n, height // 2, 2, width // 2, 6)
    # Half of the time of transposing the rows' axis behind the columns'.
    return torch.cat([pairs[:, :, 0], pairs[:, :, 1]], dim=-1).permute(0, 3, 1, 2)


def merge_phases(phases: torch.Tensor) -> torch.Tensor:
    """The image [N, 3, H, W] of its :func:`pixel_phases` [N, 12, H/2, W/2]."""
    n, _, height, width = phases.shape
    pairs = phases.permute(0, 2, 3, 1).reshape(n, height, width, 2, 6).transpose(2, 3)
    return pairs.reshape(n, 2 * height, 2 * width, 3).permute(0, 3, 1, 2)


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Fill all parameters of ``module`` with the reference's initial values.

    Xavier-uniform weights, orthogonal recurrent weights, zero biases, LayerNorm 1 and 0
    (docs/algorithm.md 2.8).
    """
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        for name, parameter in own.items():
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif isinstance(part, nn.LayerNorm):
                nn.init.ones_(parameter)
            elif isinstance(part, nn.GRUCell) and name == "weight_hh":
                nn.init.orthogonal_(parameter, generator=generator)
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)


def _expand_pixel(seed: torch.Tensor, layer: nn.ConvTranspose2d) -> torch.Tensor:
    """The transposed convolution of a one-pixel image [N, C], which is a matrix product."""
    kernel = layer.kernel_size[0]
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.in_channels)
    bias = layer.bias.repeat(kernel * kernel)
    image = F.linear(seed, weight, bias)
    return image.unflatten(-1, (kernel, kernel, layer.out_channels)).permute(0, 3, 1, 2)


def _deconvolve(image: torch.Tensor, layer: nn.ConvTranspose2d) -> torch.Tensor:
    """The transposed convolution; on CPUs its bias is a sixth faster outside than inside of it."""
    assert layer.bias is not None
    return F.conv_transpose2d(image, layer.weight, stride=layer.stride).add_(
        layer.bias[:, None, None]
    )


def _deconvolve_phases(image: torch.Tensor, layer: nn.ConvTranspose2d) -> torch.Tensor:
    """The transposed convolution of stride 2 as one convolution per output phase.

    Output pixel 2 m + p collects x[m - j] w[p + 2 j]: for each phase p an ordinary convolution.
    With three output channels this is three times as fast as the transposed convolution itself.
    """
    assert layer.bias is not None
    half = layer.kernel_size[0] // 2
    weight = layer.weight.unflatten(3, (half, 2)).unflatten(2, (half, 2)).flip(2, 4)
    weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(-1, layer.in_channels, half, half)
    bias = layer.bias.repeat(4)
    return F.conv2d(image, weight, bias, padding=half - 1)
