"""Observations and actions of every simulator, and the states that a reset takes."""

from typing import Any, cast

import numpy as np
from gymnasium import spaces

from wam.errors import WamError

ObservationDict = dict[str, np.ndarray]
"""An environment's observation, of the space that :func:`observation_space` makes."""

IMAGES = ("rgb_static", "rgb_gripper")
"""The colour images of an observation."""

DEPTHS = ("depth_static", "depth_gripper")
"""The depth images of an observation."""

_LIGHT_DECIMALS = 3


def reset_states(options: dict[str, Any] | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``robot_obs`` float64 [15] and ``scene_obs`` float64 [24] of a reset's options, or None.

    Lights become exactly 0 or 1: normalised and back they are not. Raises WamError for an unknown
    option, a wrong shape, a number that is not finite, and a light that is neither on nor off.
    """
    options = options or {}
    unknown = sorted(set(options) - {"robot_obs", "scene_obs"})
    if unknown:
        raise WamError(f"reset: unknown option {unknown[0]!r}; known: robot_obs, scene_obs")
    scene_obs = _state(options, "scene_obs", 24)
    if scene_obs is not None:
        lights = scene_obs[4:6].round(_LIGHT_DECIMALS)
        if not np.isin(lights, (0.0, 1.0)).all():
            raise WamError(
                f"reset: scene_obs: lights {scene_obs[4:6].tolist()}; expected 0 (off) or 1 (on)"
            )
        scene_obs[4:6] = lights
    return _state(options, "robot_obs", 15), scene_obs


def observation_space(
    static_size: int, gripper_size: int, *, cameras: bool, depth: bool = False
) -> "spaces.Space[ObservationDict]":
    """State vectors and, with ``cameras``, square images of the given sizes in pixels."""
    parts: dict[str, spaces.Space] = {
        "robot_obs": spaces.Box(-np.inf, np.inf, (15,), np.float64),
        "scene_obs": spaces.Box(-np.inf, np.inf, (24,), np.float64),
    }
    if cameras:
        for name, size in zip(IMAGES, (static_size, gripper_size), strict=True):
            parts[name] = spaces.Box(0, 255, (size, size, 3), np.uint8)
    if cameras and depth:
        for name, size in zip(DEPTHS, (static_size, gripper_size), strict=True):
            parts[name] = spaces.Box(0.0, np.inf, (size, size), np.float32)
    return cast("spaces.Space[ObservationDict]", spaces.Dict(parts))


def action_space() -> spaces.Box:
    """Relative actions float64 [7]; they may go beyond it."""
    return spaces.Box(-1.0, 1.0, (7,), np.float64)


def _state(options: dict[str, Any], name: str, size: int) -> np.ndarray | None:
    """A copy of the option."""
    value = options.get(name)
    if value is None:
        return None
    try:
        state = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise WamError(f"reset: {name}: expected {size} numbers") from None
    if state.shape != (size,):
        raise WamError(f"reset: {name}: shape {state.shape}; expected ({size},)")
    if not np.isfinite(state).all():
        raise WamError(f"reset: {name}: not finite: {state.tolist()}")
    return state
