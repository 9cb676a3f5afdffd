"""Names, dtypes, shapes, units and ranges of CALVIN's fields and of our store's arrays.

Source: CALVIN contract 1.3 and 1.4.
"""

from dataclasses import dataclass

import numpy as np

from wam.config import ACTION_SIZE, IMAGE_SIZE, PROPRIO_SIZE

SCHEMA_VERSION = 1
"""Version of the store's layout; a reader refuses any other."""

CAMERAS = ("rgb_static", "rgb_gripper")
ROBOT_OBS_SIZE = 15
SCENE_OBS_SIZE = 24

_TWO_PI = 2 * np.pi
# Near the poles Bullet's Euler angles go beyond pi (4.7 rad was seen).
_ANGLES = ((-_TWO_PI, _TWO_PI),) * 3
_BLOCK = ((-100.0, 100.0),) * 3 + _ANGLES

Bounds = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class VectorField:
    """A vector of a raw frame, float64 (float32 in old copies)."""

    length: int
    bounds: Bounds
    """Lowest and highest plausible value of every element."""
    meaning: str


VECTORS: dict[str, VectorField] = {
    "actions": VectorField(
        ACTION_SIZE,
        ((-10.0, 10.0),) * 3 + _ANGLES + ((-1.0, 1.0),),
        "next TCP pose (m, rad extrinsic xyz), gripper -1 close / +1 open",
    ),
    "rel_actions": VectorField(
        ACTION_SIZE,
        ((-1.0, 1.0),) * 7,
        "pose change in units of 2 cm and 0.05 rad, gripper -1 close / +1 open",
    ),
    "robot_obs": VectorField(
        ROBOT_OBS_SIZE,
        ((-10.0, 10.0),) * 3
        + _ANGLES
        + ((-0.02, 0.12),)
        + ((-_TWO_PI, _TWO_PI),) * 7
        + ((-1.0, 1.0),),
        "TCP position (m) and Euler (rad), gripper width (m), joints 1-7 (rad), gripper command",
    ),
    "scene_obs": VectorField(
        SCENE_OBS_SIZE,
        ((-1.0, 1.0),) * 4 + ((0.0, 1.0),) * 2 + _BLOCK * 3,
        "slider, drawer, button, switch (m), light bulb, LED (0/1), 3 blocks (m, rad)",
    ),
}

TOLERANCE = 1e-3
"""By how much a value may exceed its bounds (min-max round trips, solver overshoot)."""

RAW_KEYS = (*CAMERAS, *VECTORS)
"""What a raw frame must hold; further keys are ignored."""


@dataclass(frozen=True)
class StoreArray:
    """One row per frame."""

    dtype: str
    shape: tuple[int, ...]
    """Shape of a row."""
    meaning: str

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3


STORE_ARRAYS: dict[str, StoreArray] = {
    "rgb_static": StoreArray(
        "uint8", (IMAGE_SIZE, IMAGE_SIZE, 3), "static camera, RGB, top row first"
    ),
    "rgb_gripper": StoreArray(
        "uint8", (IMAGE_SIZE, IMAGE_SIZE, 3), "wrist camera, RGB, top row first"
    ),
    "actions": StoreArray("float32", (ACTION_SIZE,), VECTORS["actions"].meaning),
    "rel_actions": StoreArray("float32", (ACTION_SIZE,), VECTORS["rel_actions"].meaning),
    "robot_obs": StoreArray("float64", (ROBOT_OBS_SIZE,), VECTORS["robot_obs"].meaning),
    "scene_obs": StoreArray("float64", (SCENE_OBS_SIZE,), VECTORS["scene_obs"].meaning),
    "proprio": StoreArray(
        "float32",
        (PROPRIO_SIZE,),
        "position (m), rot6d, gripper width (m), joints (rad), gripper command; not normalised",
    ),
    "frame_id": StoreArray("int64", (), "id of the raw frame"),
}

EPISODES = "episodes"
"""int64 [E, 2]: first row and one past the last row of every episode."""
