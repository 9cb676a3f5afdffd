"""Proprioception: the 18 numbers about the robot that the world model sees.

TCP position 3 (m) | orientation rot6d 6 | gripper width 1 (m) | joint angles 7 (rad) | last gripper
command 1 (-1 or +1); made from CALVIN's 15-d ``robot_obs`` (docs/algorithm.md 1.5). This is the
only conversion: data, filtering and evaluation all use it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wam.config import PROPRIO_SIZE
from wam.errors import WamError

ROBOT_OBS_SIZE = 15
_MIN_RANGE = 1e-6


def rotation_matrix(euler: np.ndarray) -> np.ndarray:
    """float64 [..., 3, 3]: R = Rz(c) Ry(b) Rx(a) of Euler angles (a, b, c) [..., 3] in rad.

    Fixed axes: PyBullet's convention, in which CALVIN records the TCP orientation.
    """
    cos, sin = np.cos(euler), np.sin(euler)
    ca, cb, cc = np.moveaxis(cos, -1, 0)
    sa, sb, sc = np.moveaxis(sin, -1, 0)
    rows = [
        [cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa],
        [sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa],
        [-sb, cb * sa, cb * ca],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def from_robot_obs(robot_obs: np.ndarray) -> np.ndarray:
    """float32 [..., 18] proprioception of ``robot_obs`` [..., 15], in physical units.

    rot6d is the first two rows of the rotation matrix, row-major: continuous across Euler
    wrap-around. Raises WamError if the last axis is not 15.
    """
    robot_obs = np.asarray(robot_obs, dtype=np.float64)
    if robot_obs.ndim == 0 or robot_obs.shape[-1] != ROBOT_OBS_SIZE:
        raise WamError(f"robot_obs: shape {robot_obs.shape}; expected [..., {ROBOT_OBS_SIZE}]")
    rotation = rotation_matrix(robot_obs[..., 3:6])
    rot6d = rotation[..., :2, :].reshape(*robot_obs.shape[:-1], 6)
    parts = [robot_obs[..., :3], rot6d, robot_obs[..., 6:]]
    return np.concatenate(parts, axis=-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ProprioNormalizer:
    """Min-max normalisation with training-split statistics; nothing is clipped."""

    minimum: np.ndarray
    maximum: np.ndarray

    def __post_init__(self) -> None:
        for name in ("minimum", "maximum"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape != (PROPRIO_SIZE,) or not np.isfinite(values).all():
                raise WamError(f"proprio_{name}: expected {PROPRIO_SIZE} finite numbers")
            object.__setattr__(self, name, values)

    def __call__(self, proprio: np.ndarray) -> np.ndarray:
        """float32 [..., 18]: (p - min) / (max - min), where a constant dimension keeps its unit."""
        scaled = (np.asarray(proprio, dtype=np.float64) - self.minimum) / self.span
        return scaled.astype(np.float32)

    @property
    def span(self) -> np.ndarray:
        """float64 [18], what 1 of a normalised value is in physical units."""
        span = self.maximum - self.minimum
        return np.where(span < _MIN_RANGE, 1.0, span)

    def to_dict(self) -> dict[str, list[float]]:
        """The statistics as JSON-like lists."""
        return {"proprio_min": self.minimum.tolist(), "proprio_max": self.maximum.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ProprioNormalizer":
        """The normaliser stored by :meth:`to_dict`. Raises WamError naming a missing field."""
        for name in ("proprio_min", "proprio_max"):
            if name not in values:
                raise WamError(f"{name}: missing; expected {PROPRIO_SIZE} numbers")
        return cls(np.asarray(values["proprio_min"]), np.asarray(values["proprio_max"]))
