"""Camera images as the networks see them, and how far a predicted one is from the real one."""

import torch

MAX_PSNR = 60.0
"""dB reported for images that are equal."""


def to_signed(rgb: torch.Tensor) -> torch.Tensor:
    """float32 [..., 3, H, W] in [-1, 1] of uint8 ``rgb`` [..., H, W, 3], still channels-last.

    Raises ValueError for any other type: an image that lost its uint8 has probably been scaled
    before.
    """
    if rgb.dtype != torch.uint8:
        raise ValueError(f"rgb is {rgb.dtype}; expected uint8 images in [0, 255]")
    return rgb.to(torch.float32).mul_(2.0 / 255.0).sub_(1.0).movedim(-1, -3)


def to_rgb(image: torch.Tensor) -> torch.Tensor:
    """uint8 [..., H, W, 3] of ``image`` [..., 3, H, W] in [-1, 1]; values outside are clamped."""
    scaled = (image.float().clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1)


def psnr(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """dB per image [...] of two stacks [..., 3, H, W] in [-1, 1], after clamping the prediction.

    Data range 1 on the [0, 1] scale, at most 60 dB (algorithm contract 8.2). Average the dB, not
    the squared errors.
    """
    error = (prediction.float().clamp(-1.0, 1.0) - target) * 0.5
    return psnr_of_mse(error.square().mean(dim=(-3, -2, -1)))


def psnr_of_mse(mse: torch.Tensor) -> torch.Tensor:
    """dB of mean squared errors on the [0, 1] scale, at most 60."""
    return -10.0 * torch.log10(mse.clamp_min(10.0 ** (-MAX_PSNR / 10.0)))
