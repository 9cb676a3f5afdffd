"""What a data set says about its recording: scenes, statistics, settings.

Source: docs/calvin.md 1.6 and 1.7.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.calvin import safe_pickle
from pipeline.calvin.moments import Moments
from pipeline.calvin.on_disk import EPISODE_LENGTHS, EPISODE_TABLE, frame_path, read_frame
from pipeline.calvin.small_files import (
    LONGEST_TASK,
    load_yaml,
    lookup,
    text,
    write_bytes,
    write_npy,
    write_pickled,
)
from pipeline.untrusted.text import check_text, id_pair, shortened, shown
from wam.errors import WamError

STATISTICS = "statistics.yaml"
SCENE_INFO = "scene_info.npy"
RECORDING = Path(".hydra/merged_config.yaml")
_STATISTICS_FRAMES = 1000
"""Frames of an episode that are in memory at a time."""
# A scene is named, or spelled out with the table that it loads (docs/calvin.md 1.7, 2.8).
_SCENE_NAME = re.compile(r"calvin_(?:scene|table)_([A-D])")


@dataclass(frozen=True)
class Recording:
    """How frames were made; None where the recording does not say."""

    scene: str | None
    """Letter of the scene, A to D."""
    renderer: str | None
    """``tiny`` or ``egl``; images of the two differ visibly."""
    robot_model: str | None = None
    cameras: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Height and width by camera name (``static``, ``gripper``)."""
    use_nullspace: bool | None = None
    """Whether inverse kinematics prefers the home posture; CALVIN's own robot always does."""
    scene_source: str | None = None
    """``embedded`` or ``calvin``: whose tables and blocks were seen."""
    backend: str | None = None
    """The simulator that made the frames."""


def write_scene_info(directory: Path, scenes: dict[str, tuple[int, int]]) -> None:
    """Write ``scene name -> (first, last)`` frame ids, both inclusive."""
    write_pickled(directory / SCENE_INFO, {name: list(ids) for name, ids in scenes.items()})


def read_scene_info(directory: Path) -> dict[str, tuple[int, int]]:
    """``scene name -> (first, last)`` frame ids; empty where the file is absent (validation)."""
    path = directory / SCENE_INFO
    if not os.path.lexists(path):
        return {}
    content = safe_pickle.load(path)
    if not isinstance(content, dict):
        raise WamError(f"{path}: expected scene name -> [first, last], got {shown(content)}")
    scenes = {}
    for name, ids in content.items():
        check_text(f"{path}: scene name", name, LONGEST_TASK)
        scenes[name] = id_pair(f"{path}: {name}", ids)
    return scenes


def write_recording_config(directory: Path, recording: Recording) -> None:
    """Write ``.hydra/merged_config.yaml`` with the keys that CALVIN's tools read."""
    content: dict[str, dict[str, Any]] = {
        "cameras": {
            name: {"name": name, "height": height, "width": width}
            for name, (height, width) in recording.cameras.items()
        },
        "scene": {
            "name": f"calvin_scene_{recording.scene}",
            "source": recording.scene_source,
        },
        "env": {"use_egl": recording.renderer == "egl", "backend": recording.backend},
        "robot": {"model": recording.robot_model},
    }
    if recording.use_nullspace is not None:
        content["robot"]["use_nullspace"] = recording.use_nullspace
    write_bytes(directory / RECORDING, yaml.safe_dump(content, sort_keys=True).encode())


def read_recording_config(directory: Path) -> Recording:
    """What ``.hydra/merged_config.yaml`` tells; all None where the file is absent."""
    path = directory / RECORDING
    if not os.path.lexists(path):
        return Recording(None, None)
    content = load_yaml(path)
    scene = _SCENE_NAME.search(str(lookup(content, "scene")))
    use_egl = lookup(content, "env", "use_egl")
    use_nullspace = lookup(content, "robot", "use_nullspace")
    listed = lookup(content, "cameras")
    cameras = {}
    for name, camera in listed.items() if isinstance(listed, dict) else ():
        height, width = lookup(camera, "height"), lookup(camera, "width")
        if isinstance(height, int) and isinstance(width, int):
            cameras[shortened(str(name))] = (height, width)
    return Recording(
        scene=scene[1] if scene else None,
        renderer={True: "egl", False: "tiny"}.get(use_egl) if isinstance(use_egl, bool) else None,
        robot_model=text(path, content, "robot", "model"),
        cameras=cameras,
        use_nullspace=use_nullspace if isinstance(use_nullspace, bool) else None,
        scene_source=text(path, content, "scene", "source"),
        backend=text(path, content, "env", "backend"),
    )


def read_statistics(directory: Path) -> dict[str, Any]:
    """``statistics.yaml``. Raises WamError if it is missing or not a YAML mapping."""
    path = directory / STATISTICS
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise WamError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def _write_statistics(directory: Path, table: np.ndarray) -> None:
    """``statistics.yaml`` (docs/calvin.md 1.6) over all frames of the episodes."""
    found: dict[str, Moments] = {}
    for first, last in table.tolist():
        for start in range(first, last + 1, _STATISTICS_FRAMES):
            stop = min(start + _STATISTICS_FRAMES, last + 1)
            frames = [
                read_frame(frame_path(directory, frame_id), ("robot_obs", "scene_obs", "actions"))
                for frame_id in range(start, stop)
            ]
            for key in frames[0]:
                moments = Moments.of(np.stack([frame[key] for frame in frames]))
                found[key] = found[key].merged(moments) if key in found else moments
    content: dict[str, Any] = {
        "act_min_bound": found["actions"].minimum.tolist(),
        "act_max_bound": found["actions"].maximum.tolist(),
    }
    for key in ("robot_obs", "scene_obs"):
        constant = found[key].minimum == found[key].maximum
        content[key] = [
            {
                "_target_": "calvin_agent.utils.transforms.NormalizeVector",
                "mean": found[key].mean.tolist(),
                "std": np.where(constant, 1.0, found[key].std).tolist(),
            }
        ]
    write_bytes(directory / STATISTICS, yaml.safe_dump(content, sort_keys=True).encode())


def write_split(directory: Path, episodes: Sequence[tuple[int, int]]) -> None:
    """Write the episode table, lengths and statistics of a split whose frames are all there.

    ``episodes`` holds the first and last frame id of every episode, both inclusive as on disk.
    """
    table = np.asarray(episodes, np.int64).reshape(-1, 2)
    write_npy(directory / EPISODE_TABLE, table)
    write_npy(directory / EPISODE_LENGTHS, table[:, 1] - table[:, 0] + 1)
    _write_statistics(directory, table)
