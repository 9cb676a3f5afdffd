"""The simulator as stages use it: with the images of their data, in worker processes.

Evaluation, and fine-tuning where ``finetune.environment`` is ``simulator``, share this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.calvin.fields import CAMERAS
from pipeline.params import Profile
from pipeline.pictures.images import to_model_size
from wam.envs.factory import make_env
from wam.envs.pool import EnvPool
from wam.envs.settings import SimulatorConfig
from wam.errors import WamError
from wam.tasks import startable


def simulator_for(profile: Profile, store: Path, data: Mapping[str, Any]) -> SimulatorConfig:
    """The profile's simulator, with images as large as those that became the ``store`` were.

    ``data`` are the attributes of the store. ``auto`` is the renderer of the data, as far as it
    works here. Raises WamError for images that are not square.
    """
    sizes = []
    for camera in CAMERAS:
        height, width = data["source_image_shapes"][camera][:2]
        if height != width:
            raise WamError(f"{store}: {camera} is {height}x{width}; expected a square")
        sizes.append(height)
    simulator = profile.env.simulator(*sizes)
    if simulator.renderer == "auto" and data["renderer"] == "tiny":
        return replace(simulator, renderer="tiny")
    return simulator.resolved()


def open_pool(simulator: SimulatorConfig, workers: int, *, cameras: bool = True) -> EnvPool:
    """A pool whose images have the world model's size; the caller closes it."""
    make = partial(make_env, simulator, cameras=cameras)
    return EnvPool(make, workers, to_model_size, fresh_processes=simulator.one_per_process)


def warn_of_impossible(
    task: str, scene_obs: np.ndarray, frame_ids: Sequence[int], what: str, used: str
) -> None:
    """Say so if the task cannot be done from some of the starts ``scene_obs`` [M, 24]."""
    wrong = np.flatnonzero(~startable(task, scene_obs))
    if len(wrong):
        console.warn(
            f"{task}: {len(wrong)} of {len(scene_obs)} {what} do not meet the task's "
            f"pre-condition (first: frame {frame_ids[wrong[0]]}); they are {used} all the same"
        )
