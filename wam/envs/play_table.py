"""The play table as a Gymnasium environment."""

import contextlib
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from wam.envs.assets import calvin_assets, embedded_assets
from wam.envs.cameras import Cameras
from wam.envs.engine import pybullet
from wam.envs.geometry import (
    PEDESTAL_CENTRE,
    PEDESTAL_HEIGHT,
    PEDESTAL_RADIUS,
    scene_geometry,
)
from wam.envs.robot import HOME_JOINTS, Robot
from wam.envs.table import Table
from wam.errors import WamError

FPS = 30
_SUBSTEPS = 8
_GRAVITY = -9.8
_HOME_WIDTH_M = 0.08
_PARKED_JOINTS = (-1.57, -0.3, 0.0, -2.2, 0.0, 2.0, 0.78)
"""The arm folded on the far side of its base, away from the table."""

Observation = dict[str, np.ndarray]


class PlayTableEnv(gymnasium.Env[Observation, np.ndarray]):
    """CALVIN's play table and arm in PyBullet, 30 control steps per second.

    Observations: ``robot_obs`` float64 [15], ``scene_obs`` float64 [24] and, with ``cameras``,
    ``rgb_static`` and ``rgb_gripper`` uint8 [size, size, 3]. Actions: relative, float [7] (CALVIN
    contract 2.3): x, y, z in units of 2 cm, Euler angles in units of 0.05 rad, added to the robot's
    accumulated target and not clipped; the gripper exactly -1 (close) or +1 (open). The reward is
    always 0 and no step terminates: tasks are judged by :mod:`wam.envs.oracle` from two ``info``.

    Every environment owns a physics client. In the embedded scenes a reset leaves no trace of
    earlier episodes: the same reset and actions give the same states to the last bit. With CALVIN's
    own ``assets`` the first episode of an environment repeats CALVIN's to the last bit; later ones
    may differ in the order in which contacts are solved, as they do in CALVIN (contract 2.5).

    Raises WamError for an unknown scene, renderer or robot model, a missing asset, and malformed
    reset states or actions; after the latter the environment goes on as if nothing had been asked.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        scene: str = "D",
        assets: str | Path | None = None,
        renderer: str = "auto",
        robot_model: str = "light",
        static_size: int = 200,
        gripper_size: int = 84,
        cameras: bool = True,
    ) -> None:
        self.scene = scene
        geometry = scene_geometry(scene)
        files = (
            embedded_assets(scene, robot_model)  # type: ignore[arg-type]
            if assets is None
            else calvin_assets(Path(assets), scene)
        )
        if renderer not in ("auto", "tiny", "egl"):
            raise WamError(f"renderer: unknown renderer {renderer!r}; known: auto, tiny, egl")
        self._client = pybullet.connect(pybullet.DIRECT)
        try:
            self._build(geometry, files, repeatable=assets is None)
            engine = pybullet.ER_TINY_RENDERER
            if cameras and renderer == "egl":
                engine = _load_egl(self._client)
        except BaseException:
            self.close()
            raise
        self.renderer = "egl" if engine == pybullet.ER_BULLET_HARDWARE_OPENGL else "tiny"
        """The renderer in use."""
        self._cameras: Cameras | None = None
        if cameras:
            self._cameras = Cameras(self._client, static_size, gripper_size, engine)
        self.observation_space = _observation_space(static_size, gripper_size, cameras)
        self.action_space = spaces.Box(-1.0, 1.0, (7,), np.float64)
        self._fresh = pybullet.saveState(physicsClientId=self._client)
        self._ready = False
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def _build(self, geometry: Any, files: Any, *, repeatable: bool) -> None:
        client = self._client
        if repeatable:
            # Sorts the pairs that may touch. CALVIN's recordings are reproduced only in the order
            # of their appearance, which depends on what happened before in the same client.
            pybullet.setPhysicsEngineParameter(
                deterministicOverlappingPairs=1, physicsClientId=client
            )
        pybullet.setGravity(0, 0, _GRAVITY, physicsClientId=client)
        self.robot = Robot(client, files.arm)
        pedestal = pybullet.createVisualShape(
            pybullet.GEOM_CYLINDER,
            radius=PEDESTAL_RADIUS,
            length=PEDESTAL_HEIGHT,
            rgbaColor=(1, 1, 1, 1),
            physicsClientId=client,
        )
        pybullet.createMultiBody(
            baseVisualShapeIndex=pedestal, basePosition=PEDESTAL_CENTRE, physicsClientId=client
        )
        self.robot.add_gear()
        self.robot.reset(np.array(HOME_JOINTS), _HOME_WIDTH_M, 1.0)
        self.table = Table(client, geometry, files)

    @property
    def target_pose(self) -> np.ndarray:
        """float64 [6]: the robot's accumulated target, position and Euler angles."""
        return self.robot.target_pose

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        ``options`` may hold ``robot_obs`` [15], of which the gripper's width, joints and command
        count, and ``scene_obs`` [24]. Without ``robot_obs`` the arm starts at home; without
        ``scene_obs`` everything is closed and off and the blocks are scattered.
        """
        robot_obs, scene_obs = _reset_states(options)
        super().reset(seed=seed)
        self._forget()
        self.table.reset(scene_obs, self.np_random)
        if robot_obs is None:
            self.robot.reset(np.array(HOME_JOINTS), _HOME_WIDTH_M, 1.0)
        else:
            command = 1.0 if robot_obs[14] >= 0 else -1.0
            self.robot.reset(robot_obs[7:14], float(robot_obs[6]), command)
        pybullet.stepSimulation(physicsClientId=self._client)
        self._ready = True
        return self._observe()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of 1/30 s."""
        checked = check_action(action)
        if not self._ready:
            raise WamError("step: the environment has not been reset")
        self.robot.apply(checked)
        for _ in range(_SUBSTEPS):
            pybullet.stepSimulation(physicsClientId=self._client)
        self.table.update()
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def render(self) -> np.ndarray:
        """The static camera's image."""
        if self._cameras is None:
            raise WamError("render: the environment was made with cameras=False")
        return self._cameras.static()

    def close(self) -> None:
        """Release the physics client; a second call does nothing."""
        if self._client >= 0:
            with contextlib.suppress(pybullet.error):
                pybullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def _forget(self) -> None:
        """Take every body apart, so that no contact of the last episode is kept in the solver."""
        self.robot.reset(np.array(_PARKED_JOINTS), _HOME_WIDTH_M, 1.0)
        self.table.park()
        pybullet.performCollisionDetection(physicsClientId=self._client)
        pybullet.restoreState(self._fresh, physicsClientId=self._client)

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        robot_obs, robot_info = self.robot.observe()
        observation: Observation = {"robot_obs": robot_obs, "scene_obs": self.table.observe()}
        if self._cameras is not None:
            observation["rgb_static"] = self._cameras.static()
            observation["rgb_gripper"] = self._cameras.gripper(*self.robot.camera())
        contacts: dict[int, list[tuple]] = {}
        for uid in (self.robot.uid, self.table.uid, *self.table.blocks.values()):
            contacts[uid] = pybullet.getContactPoints(bodyA=uid, physicsClientId=self._client)
        robot_info["contacts"] = contacts[self.robot.uid]
        return observation, {"robot_info": robot_info, "scene_info": self.table.info(contacts)}


def check_action(action: Any) -> np.ndarray:
    """``action`` as float64 [7]. Raises WamError unless it is a finite relative action."""
    try:
        checked = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        raise WamError(f"action: expected 7 numbers, got {action!r}") from None
    if checked.shape != (7,):
        raise WamError(f"action: shape {checked.shape}; expected (7,)")
    if not np.isfinite(checked).all():
        raise WamError(f"action: not finite: {checked.tolist()}")
    if checked[6] not in (-1.0, 1.0):
        raise WamError(
            f"action: gripper command {checked[6]}; expected exactly -1 (close) or +1 (open)"
        )
    return checked


def _reset_states(options: dict[str, Any] | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``robot_obs`` and ``scene_obs`` of a reset's options, checked."""
    options = options or {}
    unknown = sorted(set(options) - {"robot_obs", "scene_obs"})
    if unknown:
        raise WamError(f"reset: unknown option {unknown[0]!r}; known: robot_obs, scene_obs")
    scene_obs = _state(options, "scene_obs", 24)
    if scene_obs is not None and not np.isin(scene_obs[4:6], (0.0, 1.0)).all():
        raise WamError(
            f"reset: scene_obs: lights {scene_obs[4:6].tolist()}; "
            "expected exactly 0 (off) or 1 (on)"
        )
    return _state(options, "robot_obs", 15), scene_obs


def _state(options: dict[str, Any], name: str, size: int) -> np.ndarray | None:
    value = options.get(name)
    if value is None:
        return None
    try:
        state = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise WamError(f"reset: {name}: expected {size} numbers") from None
    if state.shape != (size,):
        raise WamError(f"reset: {name}: shape {state.shape}; expected ({size},)")
    if not np.isfinite(state).all():
        raise WamError(f"reset: {name}: not finite: {state.tolist()}")
    return state


def _observation_space(
    static_size: int, gripper_size: int, cameras: bool
) -> "spaces.Space[Observation]":
    parts: dict[str, spaces.Space] = {
        "robot_obs": spaces.Box(-np.inf, np.inf, (15,), np.float64),
        "scene_obs": spaces.Box(-np.inf, np.inf, (24,), np.float64),
    }
    if cameras:
        for name, size in (("rgb_static", static_size), ("rgb_gripper", gripper_size)):
            parts[name] = spaces.Box(0, 255, (size, size, 3), np.uint8)
    return cast("spaces.Space[Observation]", spaces.Dict(parts))


def _load_egl(client: int) -> int:
    import importlib.util

    spec = importlib.util.find_spec("eglRenderer")
    plugin = -1
    if spec is not None and spec.origin is not None:
        plugin = pybullet.loadPlugin(spec.origin, "_eglRendererPlugin", physicsClientId=client)
    if plugin < 0:
        raise WamError("renderer: egl cannot be loaded on this machine; use tiny or auto")
    return pybullet.ER_BULLET_HARDWARE_OPENGL
