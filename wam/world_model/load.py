"""World models on disk, with the statistics of the proprioception that they were trained on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wam.config import WorldModelConfig
from wam.errors import WamError
from wam.proprio import ProprioNormalizer
from wam.weights import CONFIG_FILE, load_module
from wam.world_model.model import WorldModel


def world_model_config(
    model: WorldModel, variant: str, normalizer: ProprioNormalizer, **more: Any
) -> dict[str, Any]:
    """What :func:`load_world_model` needs to know beside the weights."""
    return {"model": asdict(model.config), "variant": variant, **normalizer.to_dict(), **more}


def load_world_model(
    directory: Path, device: torch.device | str
) -> tuple[WorldModel, ProprioNormalizer]:
    """The frozen world model in ``directory``, ready for use, and its proprioception statistics.

    Raises WamError for missing, damaged or inconsistent files.
    """
    model, config = load_module(directory, _world_model, "a world model")
    try:
        normalizer = ProprioNormalizer.from_dict(config)
    except (KeyError, TypeError, ValueError) as error:
        raise WamError(f"{directory / CONFIG_FILE}: no statistics ({error})") from None
    return model.to(device), normalizer


def _world_model(config: dict[str, Any]) -> WorldModel:
    sizes = dict(config["model"])
    sizes["id_hidden"] = tuple(sizes["id_hidden"])
    return WorldModel(WorldModelConfig(**sizes))
