"""Repeat a recorded trace of CALVIN's simulator and compare every state with the recorded one."""

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wam.envs import oracle
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError

_SHAPES: dict[str, tuple[int | None, ...]] = {
    "reset_robot_obs": (15,),
    "reset_scene_obs": (24,),
    "robot_obs_0": (15,),
    "scene_obs_0": (24,),
    "actions": (None, 7),
    "robot_obs": (None, 15),
    "scene_obs": (None, 24),
}
"""Arrays of a trace; None stands for the number of control steps."""

FIELDS: dict[str, tuple[str, list[int]]] = {
    "TCP position (m)": ("robot_obs", [0, 1, 2]),
    "TCP Euler angles (rad)": ("robot_obs", [3, 4, 5]),
    "gripper width (m)": ("robot_obs", [6]),
    "arm joints (rad)": ("robot_obs", [7, 8, 9, 10, 11, 12, 13]),
    "gripper command": ("robot_obs", [14]),
    "sliding door (m)": ("scene_obs", [0]),
    "drawer (m)": ("scene_obs", [1]),
    "button (m)": ("scene_obs", [2]),
    "switch (m)": ("scene_obs", [3]),
    "light bulb, LED": ("scene_obs", [4, 5]),
    "block positions (m)": ("scene_obs", [6, 7, 8, 12, 13, 14, 18, 19, 20]),
    "block Euler angles (rad)": ("scene_obs", [9, 10, 11, 15, 16, 17, 21, 22, 23]),
}
"""What a person compares: array and places in it."""

_ANGLES = {"robot_obs": [3, 4, 5], "scene_obs": [9, 10, 11, 15, 16, 17, 21, 22, 23]}


@dataclass(frozen=True)
class Trace:
    """States of an episode: those after the reset and after each of T actions."""

    scene: str
    """Letter of the scene, A to D."""
    reset: dict[str, np.ndarray]
    """``robot_obs`` [15] and ``scene_obs`` [24] that the episode was reset to"""
    actions: np.ndarray
    """float64 [T, 7], relative"""
    robot_obs: np.ndarray
    """float64 [T + 1, 15]"""
    scene_obs: np.ndarray
    """float64 [T + 1, 24]"""
    task: str | None
    """The task that the episode solves, if any."""
    success_step: int | None
    """Index of the first action after which the task is achieved."""


def load_trace(path: Path) -> Trace:
    """The trace in ``path``. Raises WamError naming the file and what is wrong with it."""
    if not path.is_file():
        raise WamError(f"{path}: not found")
    if not zipfile.is_zipfile(path):
        raise WamError(f"{path}: not a trace; expected an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise WamError(f"{path}: damaged, or not a trace ({error})") from None
    arrays = _checked(path, content)
    scene = re.fullmatch(r"calvin_scene_([A-Z])(_eval)?", str(content.get("scene")))
    if scene is None:
        raise WamError(f"{path}: scene: {content.get('scene')}; expected calvin_scene_D or alike")
    task = str(content["task"]) if "task" in content else None
    if task is not None and task not in oracle.PREDICATES:
        raise WamError(f"{path}: task: unknown task {task!r}")
    step = content.get("success_step")
    return Trace(
        scene[1],
        {name: arrays[f"reset_{name}"] for name in ("robot_obs", "scene_obs")},
        arrays["actions"],
        np.concatenate([arrays["robot_obs_0"][None], arrays["robot_obs"]]),
        np.concatenate([arrays["scene_obs_0"][None], arrays["scene_obs"]]),
        task,
        None if step is None else int(step),
    )


def replay(trace: Trace, assets: Path | None = None) -> Trace:
    """The trace as it comes out here, in a physics client of its own; ``assets`` as for the env."""
    env = PlayTableEnv(trace.scene, assets=assets, cameras=False)
    try:
        observation, start = env.reset(options=dict(trace.reset))
        states = [observation]
        success_step = None
        for step, action in enumerate(trace.actions):
            observation, _, _, _, info = env.step(action)
            states.append(observation)
            if success_step is None and trace.task is not None:
                if oracle.PREDICATES[trace.task](start, info):
                    success_step = step
    finally:
        env.close()
    return Trace(
        trace.scene,
        trace.reset,
        trace.actions,
        np.stack([state["robot_obs"] for state in states]),
        np.stack([state["scene_obs"] for state in states]),
        trace.task,
        success_step,
    )


def difference(recorded: Trace, repeated: Trace, name: str) -> np.ndarray:
    """Absolute difference float64 [T + 1, 15 or 24] of ``robot_obs`` or ``scene_obs``.

    Angles differ by at most pi: -3.14 and 3.14 are neighbours.
    """
    gap = np.abs(getattr(recorded, name) - getattr(repeated, name))
    columns = _ANGLES[name]
    gap[:, columns] = np.minimum(gap[:, columns], np.abs(2 * np.pi - gap[:, columns]))
    return gap


def tcp_distance(recorded: Trace, repeated: Trace) -> np.ndarray:
    """Distance (m) float64 [T + 1] between the two TCP positions."""
    return np.linalg.norm(recorded.robot_obs[:, :3] - repeated.robot_obs[:, :3], axis=1)


def _checked(path: Path, content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, shape in _SHAPES.items():
        if name not in content:
            raise WamError(f"{path}: {name} is missing; found {', '.join(sorted(content))}")
        steps = len(content["actions"]) if "actions" in content else 0
        expected = tuple(steps if size is None else size for size in shape)
        found = content[name]
        if found.shape != expected:
            raise WamError(f"{path}: {name}: shape {found.shape}; expected {expected}")
        if not np.issubdtype(found.dtype, np.number) or not np.isfinite(found).all():
            raise WamError(f"{path}: {name}: not finite numbers")
        arrays[name] = found.astype(np.float64)
    return arrays
