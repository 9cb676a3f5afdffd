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

    Data range 1 on the [0, 1] scale, at most 60 dB (docs/algorithm.md 8.2). Average the dB, not
    the squared errors.
    """
    error = (prediction.float().clamp(-1.0, 1.0) - target) * 0.5
    return psnr_of_mse(error.square().mean(dim=(-3, -2, -1)))


def ssim(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity [...] of two stacks [..., 3, H, W] in [-1, 1], prediction clamped.

    Wang et al. 2004: Gaussian windows of 11 pixels and standard deviation 1.5 that lie inside the
    image, K1 = 0.01, K2 = 0.03, data range 1 on the [0, 1] scale; mean over windows and channels
    (docs/algorithm.md 8.2).
    """
    # Double precision: a variance is a small difference of large moments.
    first = (prediction.double().clamp(-1.0, 1.0) + 1.0) / 2.0
    second = (target.double() + 1.0) / 2.0
    rows, columns = (_windows(size, first.device) for size in first.shape[-2:])
    moments = torch.stack([first, second, first**2, second**2, first * second])
    mean, other, square, other_square, product = rows @ moments @ columns.T
    brightness = (2 * mean * other + 0.01**2) / (mean**2 + other**2 + 0.01**2)
    variances = square - mean**2 + other_square - other**2
    structure = (2 * (product - mean * other) + 0.03**2) / (variances + 0.03**2)
    return (brightness * structure).mean(dim=(-3, -2, -1)).float()


def _windows(size: int, device: torch.device) -> torch.Tensor:
    """Weights [size - 10, size] of the pixels of a line in every window that lies inside it."""
    offset = torch.arange(-5, 6, device=device, dtype=torch.float64)
    weight = torch.exp(-(offset**2) / (2 * 1.5**2))
    rows = torch.zeros(size - 10, size, device=device, dtype=torch.float64)
    for start, row in enumerate(rows):
        row[start : start + 11] = weight / weight.sum()
    return rows


def psnr_of_mse(mse: torch.Tensor) -> torch.Tensor:
    """dB of mean squared errors on the [0, 1] scale, at most 60."""
    return -10.0 * torch.log10(mse.clamp_min(10.0 ** (-MAX_PSNR / 10.0)))
