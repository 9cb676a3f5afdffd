"""Random scenes and arm poses to start episodes and play from."""

import numpy as np

from wam import tasks
from wam.envs.play.experts import DOWN
from wam.envs.scene_files.geometry import DRAWER_LIMIT, SWITCH_LIMIT, SceneGeometry, scene_geometry
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.robot import HOME_JOINTS

_MIN_BLOCK_DISTANCE_M = 0.10
_IK_ROUNDS = 20
_IK_TOLERANCE_M = 0.005


def random_start(
    env: PlayTableEnv, rng: np.random.Generator, task: str | None = None
) -> dict[str, np.ndarray]:
    """Reset options for ``env``: a random pose of the arm over a random scene.

    ``task`` can be done from there. Raises WamError for an unknown task.
    """
    robot_obs = random_robot(env, rng)
    geometry = scene_geometry(env.scene)
    while True:
        scene_obs = random_scene(rng, geometry)
        if task is None or tasks.startable(task, scene_obs):
            return {"robot_obs": robot_obs, "scene_obs": scene_obs}


def random_scene(rng: np.random.Generator, geometry: SceneGeometry) -> np.ndarray:
    """``scene_obs`` float64 [24] with doors, lights and blocks drawn at random.

    The bulb agrees with its switch; no two blocks touch.
    """
    scene = np.zeros(24)
    scene[tasks.SLIDER] = _joint(rng, geometry.slide_limit)
    scene[tasks.DRAWER] = _joint(rng, DRAWER_LIMIT)
    if rng.random() < 0.5:
        scene[tasks.SWITCH] = rng.uniform(0.8, 1.0) * SWITCH_LIMIT
        scene[tasks.LIGHTBULB] = 1.0
    scene[tasks.LED] = float(rng.random() < 0.5)
    surfaces = [np.array(surface) for surface in geometry.surfaces.values()]
    placed: list[np.ndarray] = []
    while len(placed) < 3:
        low, high = surfaces[rng.integers(len(surfaces))]
        position = rng.uniform(low, high)
        if all(np.linalg.norm(position - other) > _MIN_BLOCK_DISTANCE_M for other in placed):
            index = 6 + 6 * len(placed)
            scene[index : index + 3] = position
            scene[index + 5] = rng.uniform(-np.pi, np.pi)
            placed.append(position)
    return scene


def _joint(rng: np.random.Generator, limit: float) -> float:
    """A joint value near one of the ends, from where a task can be done in one direction."""
    share = rng.uniform(0.0, 0.32) * rng.random()
    return float(share * limit if rng.random() < 0.5 else (1.0 - share) * limit)


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """TCP position and Euler angles float64 [6] over the table, the hand roughly upright."""
    position = (rng.uniform(-0.28, 0.32), rng.uniform(-0.28, -0.07), rng.uniform(0.50, 0.62))
    euler = np.array(DOWN) + rng.normal(0.0, (0.05, 0.10, 0.10))
    return np.array([*position, *euler])


def random_robot(env: PlayTableEnv, rng: np.random.Generator) -> np.ndarray:
    """``robot_obs`` float64 [15] of a reachable :func:`random_pose`; only the entries that count at
    a reset and the pose are exact. The environment is left in that pose with its scene unchanged.
    """
    while True:
        pose = random_pose(rng)
        width, command = (0.08, 1.0) if rng.random() < 0.5 else (0.0, -1.0)
        joints = np.array(HOME_JOINTS)
        for _ in range(_IK_ROUNDS):
            env.robot.reset(joints, width, command)
            joints = env.robot.solve(pose)
        env.robot.reset(joints, width, command)
        robot_obs, _ = env.robot.observe()
        if np.linalg.norm(robot_obs[:3] - pose[:3]) < _IK_TOLERANCE_M:
            return robot_obs
