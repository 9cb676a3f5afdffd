"""What frames and results were made with, and whether both show the same world."""

from collections.abc import Mapping
from typing import Any

from wam.envs.settings import CALVIN_ROBOT

_CALVIN = {"renderer": "egl", "robot_model": CALVIN_ROBOT, "scene_source": "calvin"}
"""What shapes the images, as in CALVIN's own recordings, which do not say all of it."""
_SIZES = {"rgb_static": "static_size", "rgb_gripper": "gripper_size"}


def mismatch(data: Mapping[str, Any], simulator: Mapping[str, Any]) -> str | None:
    """How the images of the two differ, as a sentence without its end; None where they do not.

    ``data`` are the attributes of a store; ``simulator`` is what
    :data:`SIMULATOR_ATTRIBUTES` names, ``scene`` and the sizes of a simulator's configuration: what
    is not there is not compared. Neither is the scene of data that do not tell it.
    """
    made, used = [], []
    for name, calvins in _CALVIN.items():
        if name in simulator and (data.get(name) or calvins) != simulator[name]:
            made.append(f"{name} {data.get(name) or 'unknown'}")
            used.append(f"{name} {simulator[name]}")
    scenes = data.get("scenes") or [scene for scene in [data.get("scene")] if scene]
    if scenes and "scene" in simulator and scenes != [simulator["scene"]]:
        made.append(f"scene {' and '.join(scenes)}")
        used.append(f"scene {simulator['scene']}")
    for camera, size in _SIZES.items():
        shape = data.get("source_image_shapes", {}).get(camera)
        if shape and size in simulator and list(shape[:2]) != [simulator[size]] * 2:
            made.append(f"{camera} {shape[0]}x{shape[1]}")
            used.append(f"{camera} {simulator[size]}x{simulator[size]}")
    if not made:
        return None
    return f"the data was made with {', '.join(made)}, the simulator runs with {', '.join(used)}"
