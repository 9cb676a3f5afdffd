"""How good open-loop predictions are, frame by frame: one implementation for every use.

T = predicted frames, B = sequences, D = features of a clip.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch

from pipeline.evaluation.perceptual import ClipFeatures, FrameDistance
from wam.config import CAMERA_NAMES
from wam.images import psnr, ssim, to_rgb
from wam.world_model.assessment import Predictions
from wam.world_model.model import WorldModel
from wam.world_model.probe import FramePairs, neighbours

BOTH = "both"
"""Stands for the mean of the cameras."""


class Clips(NamedTuple):
    """Features of predicted and real clips, float64 [B, D]."""

    predicted: np.ndarray
    real: np.ndarray


class OpenLoop(NamedTuple):
    """The predictions of a world model for some sequences, measured."""

    quality: dict[tuple[str, str], np.ndarray]
    """float64 [T, B] by measure and camera, the given frame left out"""
    posterior_psnr: dict[str, np.ndarray]
    """dB [T + 1, B] by camera, of the reconstructions while all frames are seen"""
    clips: dict[tuple[str, str], Clips]
    """by name of the features and camera"""
    pairs: FramePairs
    """neighbouring predicted frames, seen by the model's own encoder, and the given actions"""


def measure(
    model: WorldModel,
    predictions: Iterable[Predictions],
    distances: Mapping[str, FrameDistance],
    features: Mapping[str, ClipFeatures],
) -> OpenLoop:
    """PSNR, SSIM and ``distances`` of every predicted frame, and ``features`` of the clips."""
    parts = [_measure(model, part, distances, features) for part in predictions]
    first = parts[0]
    return OpenLoop(
        {key: np.concatenate([p.quality[key] for p in parts], axis=1) for key in first.quality},
        {
            key: np.concatenate([p.posterior_psnr[key] for p in parts], axis=1)
            for key in first.posterior_psnr
        },
        {
            key: Clips(*map(np.concatenate, zip(*(p.clips[key] for p in parts), strict=True)))
            for key in first.clips
        },
        FramePairs(*map(torch.cat, zip(*(p.pairs for p in parts), strict=True))),
    )


@torch.no_grad()
def _measure(
    model: WorldModel,
    part: Predictions,
    distances: Mapping[str, FrameDistance],
    features: Mapping[str, ClipFeatures],
) -> OpenLoop:
    real = {camera: part.real[camera][1:] for camera in CAMERA_NAMES}
    predicted = {camera: part.open_loop[camera][1:].clamp(-1.0, 1.0) for camera in CAMERA_NAMES}
    quality = {}
    for name, distance in {"psnr": psnr, "ssim": ssim, **distances}.items():
        for camera in CAMERA_NAMES:
            values = distance(predicted[camera].flatten(0, 1), real[camera].flatten(0, 1))
            quality[name, camera] = _plain(values.unflatten(0, real[camera].shape[:2]))
        quality[name, BOTH] = np.mean([quality[name, camera] for camera in CAMERA_NAMES], axis=0)
    posterior = {c: _plain(psnr(part.posterior[c], part.real[c])) for c in CAMERA_NAMES}
    posterior[BOTH] = np.mean([posterior[camera] for camera in CAMERA_NAMES], axis=0)
    clips = {
        (name, camera): Clips(_plain(extract(predicted[camera])), _plain(extract(real[camera])))
        for name, extract in features.items()
        for camera in CAMERA_NAMES
    }
    static, gripper = (to_rgb(part.open_loop[camera]) for camera in CAMERA_NAMES)
    visual, _ = model.embed(static, gripper, part.batch.proprio)
    pairs = neighbours(visual, part.batch.action, part.batch.id_mask)
    return OpenLoop(quality, posterior, clips, pairs)


def _plain(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
