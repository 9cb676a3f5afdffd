"""The forms in which the arm takes an action (docs/calvin.md 2.3).

Without a name, 7 numbers are ``cartesian_rel`` and a tuple of 3 is ``cartesian_abs``. Otherwise an
action is a dict with one of the keys

``cartesian_rel``: x, y, z in units of 2 cm, Euler angles in units of 0.05 rad, gripper
``cartesian_abs``: position (m), Euler angles (rad) or quaternion xyzw, gripper; 7 or 8 numbers, or
a tuple of the three parts
``joint_rel``: 7 angles (rad) to add to the measured joints, gripper
``joint_abs``: 7 joint angles (rad), gripper

Euler angles are extrinsic x-y-z. A quaternion becomes such angles, which may turn it by 0.3 degrees
where the pitch is that close to a right angle. The gripper is exactly -1 (close) or +1 (open).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam.config import POSITION_STEP_M, ROTATION_STEP_RAD
from wam.envs.simulator.engine import pybullet
from wam.errors import WamError

_STEP = np.array([POSITION_STEP_M] * 3 + [ROTATION_STEP_RAD] * 3)
_QUATERNION_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class RelativePose:
    """Move the target pose of the TCP."""

    motion: np.ndarray
    """float64 [6]: metres and radians to add to position and Euler angles"""
    gripper: float


@dataclass(frozen=True, slots=True)
class AbsolutePose:
    """Replace the target pose of the TCP."""

    pose: np.ndarray
    """float64 [6]: position (m) and Euler angles (rad)"""
    gripper: float


@dataclass(frozen=True, slots=True)
class RelativeJoints:
    """Turn the arm's joints from where they are measured."""

    motion: np.ndarray
    """float64 [7], rad"""
    gripper: float


@dataclass(frozen=True, slots=True)
class AbsoluteJoints:
    """Turn the arm's joints to given angles."""

    joints: np.ndarray
    """float64 [7], rad"""
    gripper: float


Action = RelativePose | AbsolutePose | RelativeJoints | AbsoluteJoints


def parse_action(action: Any) -> Action:
    """``action``, in any of the module's forms, as one of the four classes.

    Raises WamError for a wrong shape, a number that is not finite, a gripper command other than -1
    and +1, a quaternion that is not of length 1, and a dict without exactly one known key.
    """
    if isinstance(action, dict):
        if len(action) != 1 or next(iter(action)) not in _FORMS:
            raise WamError(
                f"action: keys {list(action)}; expected exactly one of {', '.join(_FORMS)}"
            )
        [(form, value)] = action.items()
        return _FORMS[form](value, f"action: {form}")
    if isinstance(action, tuple) and len(action) == 3:
        return _absolute_pose(action, "action")
    return _relative_pose(action, "action")


def _relative_pose(value: Any, name: str) -> RelativePose:
    numbers, gripper = _command(value, name, 7)
    return RelativePose(numbers * _STEP, gripper)


def _absolute_pose(value: Any, name: str) -> AbsolutePose:
    if isinstance(value, tuple) and len(value) == 3:
        position, orientation, gripper = value
        value = np.concatenate(
            [
                _numbers(position, f"{name}: position", 3),
                _numbers(orientation, f"{name}: orientation", 3, 4),
                _numbers(gripper, f"{name}: gripper", 1),
            ]
        )
    pose, command = _command(value, name, 7, 8)
    if len(pose) == 7:
        length = float(np.linalg.norm(pose[3:]))
        if abs(length - 1.0) > _QUATERNION_TOLERANCE:
            raise WamError(f"{name}: quaternion of length {length:.4g}; expected 1")
        pose = np.append(pose[:3], pybullet.getEulerFromQuaternion(pose[3:].tolist()))
    return AbsolutePose(pose, command)


def _relative_joints(value: Any, name: str) -> RelativeJoints:
    return RelativeJoints(*_command(value, name, 8))


def _absolute_joints(value: Any, name: str) -> AbsoluteJoints:
    return AbsoluteJoints(*_command(value, name, 8))


def _command(value: Any, name: str, *lengths: int) -> tuple[np.ndarray, float]:
    """All numbers of ``value`` but the last, and the last: the gripper command."""
    numbers = _numbers(value, name, *lengths)
    gripper = float(numbers[-1])
    if gripper not in (-1.0, 1.0):
        raise WamError(
            f"{name}: gripper command {gripper}; expected exactly -1 (close) or +1 (open)"
        )
    return numbers[:-1], gripper


def _numbers(value: Any, name: str, *lengths: int) -> np.ndarray:
    """A copy of ``value`` as finite float64 of one of ``lengths``; a lone number counts as one."""
    try:
        numbers = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError):
        raise WamError(
            f"{name}: expected numbers of shape {_shapes(lengths)}, got {value!r}"
        ) from None
    if numbers.ndim != 1 or len(numbers) not in lengths:
        raise WamError(f"{name}: shape {numbers.shape}; expected {_shapes(lengths)}")
    # On so few numbers this is faster than NumPy.
    if not all(map(math.isfinite, numbers.tolist())):
        raise WamError(f"{name}: not finite: {numbers.tolist()}")
    return numbers


def _shapes(lengths: tuple[int, ...]) -> str:
    return " or ".join(f"({length},)" for length in lengths)


_FORMS: dict[str, Callable[[Any, str], Action]] = {
    "cartesian_rel": _relative_pose,
    "cartesian_abs": _absolute_pose,
    "joint_rel": _relative_joints,
    "joint_abs": _absolute_joints,
}
