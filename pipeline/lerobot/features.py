"""What the arrays of a store are called in a LeRobot data set, and how a row of them is stored."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from pipeline.store.arrays import StoreArray
from wam.errors import WamError

KEYS = {
    "rgb_static": "observation.images.static",
    "rgb_gripper": "observation.images.gripper",
    "depth_static": "observation.images.static_depth",
    "depth_gripper": "observation.images.gripper_depth",
    "robot_obs": "observation.state",
    "scene_obs": "observation.environment_state",
    "rel_actions": "action",
    # LeRobot's policies would learn to predict whatever begins with 'action'.
    "actions": "absolute_action",
}
"""LeRobot's names; other images are ``observation.images.NAME``, other arrays keep their name."""

_POSE = ("x", "y", "z", "euler_x", "euler_y", "euler_z")
_ARM = ("gripper_width", *(f"joint_{number}" for number in range(1, 8)), "gripper_command")
NAMES = {
    "actions": (*_POSE, "gripper"),
    "rel_actions": (*_POSE, "gripper"),
    "robot_obs": (*_POSE, *_ARM),
    # Which block comes first depends on the scene.
    "scene_obs": (
        *("slider", "drawer", "button", "switch", "light_bulb", "led"),
        *(f"block_{number}_{part}" for number in (1, 2, 3) for part in _POSE),
    ),
    "proprio": (*_POSE[:3], *(f"rot6d_{number}" for number in range(1, 7)), *_ARM),
}
"""Of the elements of a vector."""

_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3)
_TIFF = (cv2.IMWRITE_TIFF_COMPRESSION, 8)  # Deflate


@dataclass(frozen=True)
class Feature:
    """One column of a data set."""

    key: str
    array: str
    """The store's array that it comes from, if it does."""
    kind: Literal["vector", "rgb", "depth"]
    dtype: str
    shape: tuple[int, ...]
    """As LeRobot tells it: (length,) or (height, width, channels)."""
    names: tuple[str, ...] | None
    channels: slice | None = None
    """The part of the array's last axis, where an array holds several images."""

    @property
    def is_image(self) -> bool:
        return self.kind != "vector"

    def rows(self, values: np.ndarray) -> np.ndarray:
        """The feature [T, *shape] in rows [T, ...] of its array."""
        if self.channels is not None:
            values = values[..., self.channels]
        return values.reshape(len(values), *self.shape)

    def info(self) -> dict[str, Any]:
        """The entry of ``meta/info.json``."""
        info: dict[str, Any] = {
            "dtype": "image" if self.is_image else self.dtype,
            "shape": list(self.shape),
            "names": None if self.names is None else list(self.names),
        }
        if self.kind == "depth":
            info["info"] = {"is_depth_map": True, "depth_unit": "m"}
        return info


ROW_NUMBERS = tuple(
    Feature(name, name, "vector", dtype, (1,), None)
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    )
)
"""Columns that LeRobot requires of every data set; no array of the store holds them."""


def features_of(arrays: dict[str, StoreArray]) -> list[Feature]:
    """The features of a store with these arrays, in the same order.

    Raises WamError naming an array that no feature can hold, or a name that is LeRobot's own.
    """
    features = [
        feature
        for name, array in arrays.items()
        for feature in (_images(name, array) if array.is_image else [_vector(name, array)])
    ]
    keys = [feature.key for feature in (*ROW_NUMBERS, *features)]
    for feature in features:
        if keys.count(feature.key) > 1:
            raise WamError(f"{feature.array}: LeRobot's '{feature.key}' is something else")
    return features


def encode(feature: Feature, image: np.ndarray) -> bytes:
    """An image [H, W, C] as a file, without loss: PNG, or TIFF of float32 for depth."""
    if feature.kind == "depth":
        return cv2.imencode(".tiff", image, _TIFF)[1].tobytes()
    return cv2.imencode(".png", image[..., ::-1], _PNG)[1].tobytes()


def _vector(name: str, array: StoreArray) -> Feature:
    shape = array.shape or (1,)
    return Feature(KEYS.get(name, name), name, "vector", array.dtype, shape, NAMES.get(name))


def _images(name: str, array: StoreArray) -> list[Feature]:
    """One image, or several that lie behind each other in the last axis."""
    kind: Literal["rgb", "depth"] = "depth" if array.dtype == "float32" else "rgb"
    size = {"rgb": 3, "depth": 1}[kind]
    height, width, channels = (*array.shape, 1)[:3]
    if array.dtype not in ("uint8", "float32") or len(array.shape) > 3 or channels % size:
        raise WamError(
            f"{name}: rows of {array.dtype} {array.shape} have no place in a LeRobot data set; "
            "expected a vector, RGB (uint8 [H, W, 3]) or depth (float32 [H, W])"
        )
    key = KEYS.get(name, f"observation.images.{name}")
    return [
        Feature(
            key if channels == size else f"{key}_{first // size}",
            name,
            kind,
            array.dtype,
            (height, width, size),
            ("height", "width", "channels"),
            slice(first, first + size) if channels > size else None,
        )
        for first in range(0, channels, size)
    ]
