"""What frames and results were made with, and whether a policy sees the same images in both."""

from collections.abc import Mapping
from typing import Any

from wam.envs.backend import CALVIN_ROBOT

ORIGIN = ("backend", "renderer", "robot_model", "scene_source")
"""What is recorded with every frame and result; None where a recording does not say."""

_CALVIN = {"renderer": "egl", "robot_model": CALVIN_ROBOT, "scene_source": "calvin"}
"""What shapes the images, as in CALVIN's own recordings, which do not say all of it."""


def mismatch(data: Mapping[str, Any], simulator: Mapping[str, Any]) -> str | None:
    """How the images of the two differ, as a sentence without its end; None where they do not."""
    differing = [
        name
        for name, calvins in _CALVIN.items()
        if name in simulator and (data.get(name) or calvins) != simulator[name]
    ]
    if not differing:
        return None
    made = ", ".join(f"{name} {data.get(name) or 'unknown'}" for name in differing)
    used = ", ".join(f"{name} {simulator[name]}" for name in differing)
    return f"the data was made with {made}, the simulator runs with {used}"
