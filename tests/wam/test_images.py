import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from wam.images import psnr, ssim


def grey(value: float) -> torch.Tensor:
    return torch.full((2, 3, 3, 64, 64), value)


def noise(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 64, 48, generator=generator) * 2 - 1


def test_psnr_of_a_known_error() -> None:
    """An error of a tenth of the range is 20 dB; equal images are given 60."""
    torch.testing.assert_close(psnr(grey(0.3), grey(0.1)), torch.full((2, 3), 20.0))
    assert (psnr(grey(5.0), grey(1.0)) == 60).all(), "clamped to the range of images"


@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (-0.5, 0.25), (1.0, 1.0)])
def test_ssim_of_plain_images_compares_their_brightness(a: float, b: float) -> None:
    """Without variance the structure term is 1: (2 m n + c) / (m^2 + n^2 + c), c = 0.01^2."""
    m, n = (a + 1) / 2, (b + 1) / 2
    expected = (2 * m * n + 1e-4) / (m**2 + n**2 + 1e-4)
    torch.testing.assert_close(ssim(grey(a), grey(b)), torch.full((2, 3), expected))


def test_ssim_agrees_with_the_definition_by_scipy() -> None:
    first, second = noise(1), 0.7 * noise(1) + 0.3 * noise(2)
    x, y = ((image.double().numpy() + 1) / 2 for image in (first, second))

    def mean(values: np.ndarray) -> np.ndarray:
        blurred = gaussian_filter(values, 1.5, axes=(-2, -1), radius=5)
        return blurred[..., 5:-5, 5:-5]

    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    structure = (2 * covariance + 9e-4) / (variances + 9e-4)
    brightness = (2 * mean(x) * mean(y) + 1e-4) / (mean(x) ** 2 + mean(y) ** 2 + 1e-4)
    expected = (structure * brightness).mean((1, 2, 3))
    assert 0.2 < expected.min() and expected.max() < 0.95
    np.testing.assert_allclose(ssim(first, second).numpy(), expected, rtol=1e-6)


def test_ssim_falls_with_noise_and_ignores_values_outside_the_range() -> None:
    image = noise(1)
    values = [float(ssim(image + scale * noise(2), image)[0]) for scale in (0.0, 0.05, 0.2, 1.0)]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True)
    assert (ssim(image.sign() * 5, image.sign()) == 1).all()
