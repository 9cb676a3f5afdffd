"""Names, dtypes, shapes, units and ranges of CALVIN's fields and of our store's arrays.

Source: docs/calvin.md 1.3 and 1.4.
"""

from dataclasses import dataclass

import numpy as np

from wam.config import ACTION_SIZE, IMAGE_SIZE
from wam.proprio import ROBOT_OBS_SIZE

CAMERAS = ("rgb_static", "rgb_gripper")
"""What training needs; a store may hold one of them for other uses."""
DEPTHS = {"rgb_static": "depth_static", "rgb_gripper": "depth_gripper"}
"""The depth image of each camera, float32 [H, W] in m along the optical axis."""
SCENE_OBS_SIZE = 24

_TWO_PI = 2 * np.pi
# Near the poles Bullet's Euler angles go beyond pi (4.7 rad was seen).
_ANGLES = ((-_TWO_PI, _TWO_PI),) * 3
_BLOCK = ((-100.0, 100.0),) * 3 + _ANGLES

Bounds = tuple[tuple[float, float], ...]

TOLERANCE = 1e-3
"""By how much a value may exceed its bounds (min-max round trips, solver overshoot)."""


@dataclass(frozen=True)
class VectorField:
    """A vector of a raw frame, float64 (float32 in old copies)."""

    length: int
    bounds: Bounds
    """Lowest and highest plausible value of every element."""
    meaning: str
    gripper: int | None = None
    """Place of the gripper command, which is -1 or +1."""

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def plausible(self, values: np.ndarray) -> np.ndarray:
        """bool like ``values`` [..., length]: finite, within the bounds, a command if it is one."""
        low, high = np.array(self.bounds).T
        inside = (values >= low - TOLERANCE) & (values <= high + TOLERANCE)
        if self.gripper is not None:
            inside[..., self.gripper] &= np.abs(values[..., self.gripper]) >= 1 - TOLERANCE
        return inside


VECTORS: dict[str, VectorField] = {
    "actions": VectorField(
        ACTION_SIZE,
        ((-10.0, 10.0),) * 3 + _ANGLES + ((-1.0, 1.0),),
        "next TCP pose (m, rad extrinsic xyz), gripper -1 close / +1 open",
        gripper=6,
    ),
    "rel_actions": VectorField(
        ACTION_SIZE,
        ((-1.0, 1.0),) * 7,
        "pose change in units of 2 cm and 0.05 rad, gripper -1 close / +1 open",
        gripper=6,
    ),
    "robot_obs": VectorField(
        ROBOT_OBS_SIZE,
        ((-10.0, 10.0),) * 3
        + _ANGLES
        + ((-0.05, 0.12),)
        + ((-_TWO_PI, _TWO_PI),) * 7
        + ((-1.0, 1.0),),
        "TCP position (m) and Euler (rad), gripper width (m), joints 1-7 (rad), gripper command",
        gripper=14,
    ),
    "scene_obs": VectorField(
        SCENE_OBS_SIZE,
        ((-1.0, 1.0),) * 4 + ((0.0, 1.0),) * 2 + _BLOCK * 3,
        "slider, drawer, button, switch (m), light bulb, LED (0/1), 3 blocks (m, rad)",
    ),
}

RAW_KEYS = (*CAMERAS, *VECTORS)
"""What a raw frame must hold; further keys are ignored unless ``convert`` is asked for them."""

DTYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CAMERAS, ("uint8",)),
    **dict.fromkeys(DEPTHS.values(), ("float32",)),
    **dict.fromkeys(VECTORS, ("float64", "float32")),
}
"""What an array may be; first what CALVIN's own files hold."""


def image_expectation(shape: tuple[int, ...]) -> str | None:
    """What is expected instead of ``shape``; None if it is that of an image we can use."""
    if len(shape) != 3 or shape[2] != 3:
        return "(height, width, 3)"
    return None if min(shape[:2]) >= IMAGE_SIZE else f"at least {IMAGE_SIZE}x{IMAGE_SIZE}"
