"""Latent features of the demonstrations on disk, one directory per task.

A feature is [deter; stoch]; the file keeps deter as float16, and of a one-hot stoch the class of
every categorical as uint8, a quarter of the size (docs/algorithm.md 3.2); probabilities as float16.
Shapes: S posterior draws, N frames of all demonstrations in a row, D demonstrations, M play starts,
F feature. A start is the feature of a single frame as an episode begins: filtered from the zero
state, the hand at rest.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from pipeline.artifacts.layout import SPLITS
from wam.config import WorldModelConfig
from wam.errors import WamError
from wam.weights import load_tensors, save_tensors

FEATURES_FILE = "features.safetensors"
MAX_CLASSES = 256


@dataclass(frozen=True)
class SplitFeatures:
    """The demonstrations of one split."""

    posterior: torch.Tensor
    """float32 [S, N, F], filtered from each demonstration's first frame"""
    imagined: torch.Tensor
    """float32 [S, N, F], predicted from the first feature and the recorded actions"""
    context: torch.Tensor | None
    """float32 [N, F], filtered with the preceding play; None: not made"""
    glimpsed: torch.Tensor | None
    """float32 [G, N, F], filtered from the first frame with looks at some frames only; None: not
    made"""
    action: torch.Tensor
    """float32 [N, 7], executable"""
    label: torch.Tensor
    """bool [N], the task is accomplished"""
    scene_obs: torch.Tensor
    """float32 [N, 24]"""
    length: torch.Tensor
    """int64 [D], frames per demonstration"""
    start: torch.Tensor
    """int64 [D], row of every demonstration's first frame in the split's store"""

    @property
    def first(self) -> torch.Tensor:
        """int64 [D], the first frame of every demonstration."""
        return self.length.cumsum(0) - self.length


@dataclass(frozen=True)
class TaskFeatures:
    """All features of one task."""

    training: SplitFeatures
    validation: SplitFeatures
    demo_starts: torch.Tensor
    """float32 [S, D, F], of the first frames of ``training``"""
    validation_starts: torch.Tensor
    """float32 [S, D, F], of the first frames of ``validation``"""
    play_starts: torch.Tensor
    """float32 [S, M, F], of play from which the task can be imagined"""
    play_start_rows: torch.Tensor
    """int64 [M], their rows in the training store"""
    training_play: SplitFeatures
    """windows of play in the place of demonstrations, for the reward; may have no frames"""
    validation_play: SplitFeatures

    @property
    def size(self) -> int:
        """F."""
        return self.training.posterior.shape[-1]


def no_features(draws: int, feature: int) -> SplitFeatures:
    """Those of no demonstration at all, ``draws`` times, of size ``feature``."""
    latents = torch.zeros(draws, 0, feature)
    return SplitFeatures(
        posterior=latents,
        imagined=latents,
        context=None,
        glimpsed=None,
        action=torch.zeros(0, 7),
        label=torch.zeros(0, dtype=torch.bool),
        scene_obs=torch.zeros(0, 24),
        length=torch.zeros(0, dtype=torch.int64),
        start=torch.zeros(0, dtype=torch.int64),
    )


_OPTIONAL = ("context", "glimpsed")
_LATENTS = ("posterior", "imagined", *_OPTIONAL)
_STARTS = ("demo_starts", "validation_starts", "play_starts")
_PARTS = (*SPLITS, "training_play", "validation_play")


def save_features(directory: Path, features: TaskFeatures, config: WorldModelConfig) -> None:
    """Write the features of one task; ``config`` is the world model's."""
    if config.classes > MAX_CLASSES:
        raise WamError(
            f"world_model.classes={config.classes}: features have room for {MAX_CLASSES}"
        )
    tensors = {"classes": torch.tensor(config.classes)}
    for split in _PARTS:
        for name, value in vars(getattr(features, split)).items():
            if name in _LATENTS and value is not None:
                tensors |= _packed(f"{split}.{name}", value, config)
            elif value is not None:
                tensors[f"{split}.{name}"] = value
    for name in _STARTS:
        tensors |= _packed(name, getattr(features, name), config)
    tensors["play_start_rows"] = features.play_start_rows
    save_tensors(directory / FEATURES_FILE, tensors)


def load_features(directory: Path, task: str) -> TaskFeatures:
    """The features of ``task`` below a stage's ``directory``.

    Raises WamError if they are missing or damaged.
    """
    tensors = load_tensors(directory / task, name=FEATURES_FILE)
    try:
        classes = int(tensors["classes"])
        values: dict[str, Any] = {name: _split(tensors, name, classes) for name in _PARTS}
        values |= {name: _unpacked(tensors, name, classes) for name in _STARTS}
        return TaskFeatures(play_start_rows=tensors["play_start_rows"], **values)
    except KeyError as error:
        raise WamError(
            f"{directory / task / FEATURES_FILE}: no {error}; run 'wam featurize' again"
        ) from None


def _split(tensors: dict[str, torch.Tensor], split: str, classes: int) -> SplitFeatures:
    values: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    for field in fields(SplitFeatures):
        name = f"{split}.{field.name}"
        if field.name not in _LATENTS:
            values[field.name] = tensors[name]
        elif f"{name}.deter" in tensors or field.name not in _OPTIONAL:
            values[field.name] = _unpacked(tensors, name, classes)
    return SplitFeatures(**values)


def _packed(name: str, feature: torch.Tensor, config: WorldModelConfig) -> dict[str, torch.Tensor]:
    deter, stoch = feature[..., : config.deter], feature[..., config.deter :]
    if config.latent == "one_hot":
        stoch = stoch.unflatten(-1, (-1, config.classes)).argmax(-1).to(torch.uint8)
    else:
        stoch = stoch.half()
    return {f"{name}.deter": deter.half(), f"{name}.stoch": stoch}


def _unpacked(tensors: dict[str, torch.Tensor], name: str, classes: int) -> torch.Tensor:
    stoch = tensors[f"{name}.stoch"]
    if stoch.dtype == torch.uint8:
        stoch = functional.one_hot(stoch.long(), classes).flatten(-2)
    return torch.cat([tensors[f"{name}.deter"].float(), stoch.float()], dim=-1)
