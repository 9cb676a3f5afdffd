"""Learned distances of images and clips: what PSNR and SSIM do not see (docs/algorithm.md 8.2).

None of them is computed with stand-in weights. LPIPS and FVD need a file that is not ours to ship
and that a setting names; LPIPS and ST-LPIPS need the packages of the extra ``perceptual``, of which
the latter's brings all its weights.

To add a distance: a function from :class:`EvaluateWorldModel` and device to the distance, and a
line in ``FRAME_DISTANCES`` or ``CLIP_FEATURES``.

N = images, B = clips, T = time, D = features.
"""

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.params import EvaluateWorldModel
from wam.errors import WamError
from wam.paths import expanded

FrameDistance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Distances [N] of predicted and real images [N, 3, 64, 64] in [-1, 1]."""
ClipFeatures = Callable[[torch.Tensor], torch.Tensor]
"""Features [B, D] of clips [T, B, 3, 64, 64] in [-1, 1]."""

Metric = TypeVar("Metric")

_IMAGES_AT_ONCE = 100
_CLIP_PIXELS = 224
_FEWEST_CLIP_FRAMES = 10


class Unavailable(Exception):
    """A distance cannot be computed here; the message says what is missing."""


def open_available(
    registry: Mapping[str, Callable[[EvaluateWorldModel, torch.device], Metric]],
    settings: EvaluateWorldModel,
    device: torch.device,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """The distances of ``registry`` that can be computed, and why the others cannot.

    Raises WamError for a file that the settings name and that is not what it should be.
    """
    found: dict[str, Metric] = {}
    missing: dict[str, str] = {}
    for name, open_backend in registry.items():
        try:
            found[name] = open_backend(settings, device)
        except Unavailable as error:
            missing[name] = str(error)
    return found, missing


class Lpips(torch.nn.Module):
    """LPIPS 0.1 with AlexNet (Zhang et al. 2018): weighted distances between its five activations.

    ``trunk`` holds AlexNet's parameters by torchvision's names, ``heads`` the five 1x1 weights
    [1, C, 1, 1] of the activations' channels.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    _CONVOLUTIONS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
    """Number in torchvision's ``features``, stride and padding."""
    _POOLED = (0, 3)
    """The convolutions that a maximum over 3 pixels in steps of 2 follows."""

    def __init__(
        self, trunk: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        for index, (number, _, _) in enumerate(self._CONVOLUTIONS):
            self.register_buffer(f"weight{number}", trunk[f"features.{number}.weight"])
            self.register_buffer(f"bias{number}", trunk[f"features.{number}.bias"])
            self.register_buffer(f"head{number}", heads[f"lin{index}.model.1.weight"])

    @torch.no_grad()
    def forward(self, predicted: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Distances [N] of images [N, 3, H, W] in [-1, 1]."""
        one, other = ((image - self.shift) / self.scale for image in (predicted, real))
        total = torch.zeros(len(predicted), device=predicted.device)
        for number, stride, padding in self._CONVOLUTIONS:
            one, other = (self._activate(image, number, stride, padding) for image in (one, other))
            difference = (F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)).square()
            weighted = F.conv2d(difference, self.get_buffer(f"head{number}"))
            total = total + weighted.mean((1, 2, 3))
            if number in self._POOLED:
                one, other = (F.max_pool2d(image, 3, stride=2) for image in (one, other))
        return total

    def _activate(
        self, image: torch.Tensor, number: int, stride: int, padding: int
    ) -> torch.Tensor:
        weight, bias = self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")
        return F.conv2d(image, weight, bias, stride=stride, padding=padding).relu()


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features [N, D] and [M, D].

    Biased upwards for few samples: compare values from equally many alone.
    """
    means, spreads = [], []
    for features in (first, second):
        features = np.asarray(features, np.float64)
        means.append(features.mean(0))
        spreads.append((features - means[-1]) / np.sqrt(len(features) - 1))
    # With covariances A'A and B'B the trace of the root of their product is the sum of the
    # singular values of A B', which needs neither root nor full rank.
    shared = np.linalg.svd(spreads[0] @ spreads[1].T, compute_uv=False).sum()
    own = sum(np.square(spread).sum() for spread in spreads)
    return float(max(np.square(means[0] - means[1]).sum() + own - 2 * shared, 0.0))


def _lpips(settings: EvaluateWorldModel, device: torch.device) -> FrameDistance:
    if settings.lpips_weights is None:
        raise Unavailable(
            "evaluate_world_model.lpips_weights names no file of torchvision's AlexNet weights"
        )
    path = _existing(settings.lpips_weights, "lpips_weights")
    # Found and not imported: of the package only its heads are needed, a few kB, and not
    # torchvision, whose import fails beside another build of torch.
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise Unavailable("the extra 'perceptual' is not installed (no package lpips)")
    heads = _load(Path(package.origin).with_name("weights") / "v0.1" / "alex.pth")
    try:
        distance = Lpips(_load(path), heads)
    except (RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise WamError(
            f"evaluate_world_model.lpips_weights = {path}: not torchvision's AlexNet ({error!r})"
        ) from None
    return _in_parts(distance.to(device))


def _st_lpips(settings: EvaluateWorldModel, device: torch.device) -> FrameDistance:
    try:
        from stlpips_pytorch import stlpips
    except (ImportError, RuntimeError) as error:  # torchvision for another torch: RuntimeError
        first_line = str(error).splitlines()[0]
        raise Unavailable(f"the extra 'perceptual' is not installed ({first_line})") from None
    distance = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    distance = distance.requires_grad_(False).to(device)
    return _in_parts(lambda predicted, real: distance(predicted, real).flatten())


def _i3d(settings: EvaluateWorldModel, device: torch.device) -> ClipFeatures:
    if settings.fvd_weights is None:
        raise Unavailable("evaluate_world_model.fvd_weights names no TorchScript file of I3D")
    if settings.open_loop_steps < _FEWEST_CLIP_FRAMES:
        raise Unavailable(f"open_loop_steps is less than the {_FEWEST_CLIP_FRAMES} that I3D needs")
    path = _existing(settings.fvd_weights, "fvd_weights")
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        first_line = str(error).splitlines()[0]
        raise WamError(
            f"evaluate_world_model.fvd_weights = {path}: not TorchScript ({first_line})"
        ) from None

    @torch.no_grad()
    def features(clips: torch.Tensor) -> torch.Tensor:
        outputs = []
        for clip in clips.unbind(1):
            large = F.interpolate(clip, size=(_CLIP_PIXELS, _CLIP_PIXELS), mode="bilinear")
            video = large.transpose(0, 1).unsqueeze(0)
            # The arguments of the common export of I3D: no scaling of its own, 400 logits.
            outputs.append(network(video, rescale=False, resize=False, return_features=True))
        return torch.cat(outputs)

    return features


def _existing(name: str, key: str) -> Path:
    path = expanded(name, f"evaluate_world_model.{key}")
    if not path.is_file():
        raise WamError(f"evaluate_world_model.{key} = {path}: no such file")
    return path


def _load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _in_parts(distance: FrameDistance) -> FrameDistance:
    """``distance`` for any number of images, a few at a time."""

    def all_of(predicted: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        pairs = zip(predicted.split(_IMAGES_AT_ONCE), real.split(_IMAGES_AT_ONCE), strict=True)
        with torch.no_grad():
            return torch.cat([distance(*pair) for pair in pairs])

    return all_of


FRAME_DISTANCES: dict[str, Callable[[EvaluateWorldModel, torch.device], FrameDistance]] = {
    "lpips": _lpips,
    "st_lpips": _st_lpips,
}
CLIP_FEATURES: dict[str, Callable[[EvaluateWorldModel, torch.device], ClipFeatures]] = {
    "fvd": _i3d,
}
