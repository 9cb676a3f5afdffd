from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.evaluation.perceptual import (
    CLIP_FEATURES,
    FRAME_DISTANCES,
    Lpips,
    frechet_distance,
    open_available,
)
from pipeline.params import EvaluateWorldModel, Profile
from wam.errors import WamError

CPU = torch.device("cpu")
SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Output and input channels and kernel of AlexNet's convolutions."""


def alexnet() -> dict[str, torch.Tensor]:
    """Random weights by torchvision's names, a classifier's among them."""
    generator = torch.Generator().manual_seed(0)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for number, (outputs, inputs, kernel) in SHAPES.items():
        shape = (outputs, inputs, kernel, kernel)
        scale = (2 / (inputs * kernel**2)) ** 0.5
        weights[f"features.{number}.weight"] = scale * torch.randn(shape, generator=generator)
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return weights


@pytest.fixture
def settings(raw_root: Path, make_profile: Callable[..., Profile]) -> EvaluateWorldModel:
    return make_profile(raw_root).evaluate_world_model


def images(count: int, seed: int) -> torch.Tensor:
    return 2 * torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) - 1


def test_equal_samples_are_at_distance_zero() -> None:
    features = np.random.default_rng(0).normal(size=(50, 8))
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dimensions", [3, 40])
def test_the_frechet_distance_of_gaussians(dimensions: int) -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 for equal axes; the samples have exactly these moments."""
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(100, dimensions))
    samples -= samples.mean(0)
    samples = samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples.T))).T
    axes = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    means, scales = rng.normal(size=(2, dimensions)), rng.uniform(0.5, 2, size=(2, dimensions))
    first, second = ((samples * s) @ axes + m for m, s in zip(means, scales, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(scales[0] - scales[1]).sum()
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_fewer_samples_than_dimensions_suffice() -> None:
    rng = np.random.default_rng(2)
    first = rng.normal(size=(5, 30))
    assert frechet_distance(first, first + 2.0) == pytest.approx(30 * 4)


def test_nothing_is_computed_without_weights(settings: EvaluateWorldModel) -> None:
    for registry, name in ((FRAME_DISTANCES, "lpips"), (CLIP_FEATURES, "fvd")):
        found, missing = open_available({name: registry[name]}, settings, CPU)
        assert found == {}
        assert f"evaluate_world_model.{name}_weights" in missing[name]


@pytest.mark.parametrize("name", ["lpips", "fvd"])
def test_unusable_weights_are_an_error(
    settings: EvaluateWorldModel, tmp_path: Path, package: Path, name: str
) -> None:
    registry = {**FRAME_DISTANCES, **CLIP_FEATURES}
    path = tmp_path / "weights"
    given = replace(settings, open_loop_steps=50, **{f"{name}_weights": str(path)})
    with pytest.raises(WamError, match=rf"{name}_weights = .*: no such file"):
        registry[name](given, CPU)
    path.write_text("not weights")
    with pytest.raises(WamError, match=rf"{name}_weights = .*: not "):
        registry[name](given, CPU)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package ``lpips`` as far as it is used: its heads, all ones."""
    directory = tmp_path / "site" / "lpips"
    (directory / "weights" / "v0.1").mkdir(parents=True)
    (directory / "__init__.py").write_text("raise ImportError")
    heads = {
        f"lin{i}.model.1.weight": torch.ones(1, n, 1, 1)
        for i, (n, _, _) in enumerate(SHAPES.values())
    }
    torch.save(heads, directory / "weights" / "v0.1" / "alex.pth")
    monkeypatch.syspath_prepend(directory.parent)
    return directory


def test_lpips_from_a_file_of_alexnet(
    settings: EvaluateWorldModel, tmp_path: Path, package: Path
) -> None:
    torch.save(alexnet(), tmp_path / "alexnet.pth")
    given = replace(settings, lpips_weights=str(tmp_path / "alexnet.pth"))
    found, _ = open_available({"lpips": FRAME_DISTANCES["lpips"]}, given, CPU)
    one, other = images(103, 1), images(103, 2)
    distance = found["lpips"](one, other)
    assert distance.shape == (103,)
    assert (found["lpips"](one, one) == 0).all()
    torch.testing.assert_close(distance, found["lpips"](other, one))
    near = found["lpips"](one, 0.9 * one + 0.1 * other)
    assert (near < distance).all()


def test_lpips_weighs_the_channels_of_unit_activations() -> None:
    """With one head alone open, LPIPS is that layer's weighted cosine distance."""
    trunk = alexnet()
    heads = {
        f"lin{i}.model.1.weight": torch.zeros(1, outputs, 1, 1)
        for i, (outputs, _, _) in enumerate(SHAPES.values())
    }
    heads["lin0.model.1.weight"] += 1.0
    one, other = images(2, 1), images(2, 2)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    first, second = (
        F.conv2d(
            (image - shift) / scale,
            trunk["features.0.weight"],
            trunk["features.0.bias"],
            stride=4,
            padding=2,
        ).relu()
        for image in (one, other)
    )
    expected = (2 - 2 * F.cosine_similarity(first, second)).mean((1, 2))
    torch.testing.assert_close(Lpips(trunk, heads)(one, other), expected, atol=1e-5, rtol=1e-5)


class MeanColour(torch.nn.Module):
    """Shaped like the export of I3D: a clip [1, 3, T, 224, 224] gives its features."""

    def forward(
        self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> torch.Tensor:
        assert return_features and not rescale and not resize
        assert x.shape[3] == 224 and x.shape[4] == 224
        return x.mean((3, 4)).flatten(1)


def test_clips_go_through_the_network_one_by_one(
    settings: EvaluateWorldModel, tmp_path: Path
) -> None:
    torch.jit.script(MeanColour()).save(tmp_path / "i3d.pt")
    given = replace(settings, open_loop_steps=10, fvd_weights=str(tmp_path / "i3d.pt"))
    found, missing = open_available(CLIP_FEATURES, given, CPU)
    clips = images(20, 1).unflatten(0, (10, 2))
    assert missing == {}
    expected = clips.mean((3, 4)).permute(1, 2, 0).flatten(1)
    torch.testing.assert_close(found["fvd"](clips), expected, atol=1e-3, rtol=0)
    _, missing = open_available(CLIP_FEATURES, replace(given, open_loop_steps=9), CPU)
    assert "10 that I3D needs" in missing["fvd"]
