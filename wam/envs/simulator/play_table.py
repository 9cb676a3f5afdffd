"""The play table as a Gymnasium environment."""

import contextlib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wam.config import FPS
from wam.envs.scene_files.assets import calvin_assets, embedded_assets
from wam.envs.scene_files.geometry import (
    PEDESTAL_CENTRE,
    PEDESTAL_HEIGHT,
    PEDESTAL_RADIUS,
    scene_geometry,
)
from wam.envs.simulator.actions import parse_action
from wam.envs.simulator.cameras import Cameras
from wam.envs.simulator.engine import pybullet
from wam.envs.simulator.quiet import quiet_driver
from wam.envs.simulator.renderer import load_egl, resolve_renderer
from wam.envs.simulator.robot import HOME_JOINTS, Robot
from wam.envs.simulator.spaces import (
    ObservationDict,
    action_space,
    observation_space,
    reset_states,
)
from wam.envs.simulator.table import Table
from wam.errors import WamError
from wam.paths import expanded

_SUBSTEPS = 8
_GRAVITY = -9.8
_HOME_WIDTH_M = 0.08
_CONSTRUCTION_SEED = 0
"""CALVIN's default, of all its recordings: it says where blocks are when they are loaded."""


class PlayTableEnv(gymnasium.Env[ObservationDict, np.ndarray]):
    """CALVIN's play table and arm in PyBullet, 30 control steps per second.

    Observations: ``robot_obs`` float64 [15], ``scene_obs`` float64 [24] and, with ``cameras``,
    ``rgb_static`` and ``rgb_gripper`` uint8 [size, size, 3]; with ``depth`` too, ``depth_static``
    and ``depth_gripper`` float32 [size, size] in metres along the optical axis. Actions: relative,
    float [7] (docs/calvin.md 2.3): x, y, z in units of 2 cm, Euler angles in units of 0.05 rad,
    added to the robot's accumulated target and not clipped; the gripper exactly -1 (close) or +1
    (open). Absolute poses and joint angles are taken as well, in the forms of
    :mod:`wam.envs.simulator.actions`. The reward is always 0 and no step terminates: tasks are
    judged by :mod:`wam.envs.oracle` from two ``info``.

    Every environment owns a physics client, and every episode a world that is built anew, in some
    20 ms (CALVIN's: 150): the engine remembers more than the states of its bodies (docs/calvin.md
    2.5), so only then do the same reset and actions give the same states to the last bit.

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
        depth: bool = False,
    ) -> None:
        self.scene = scene
        self._geometry = scene_geometry(scene)
        self._assets = (
            embedded_assets(scene, robot_model)  # type: ignore[arg-type]
            if assets is None
            else calvin_assets(expanded(assets, "env.assets"), scene)
        )
        self.renderer = resolve_renderer(renderer if cameras else "tiny")
        """``tiny`` or ``egl``."""
        self._client = pybullet.connect(pybullet.DIRECT)
        try:
            engine = pybullet.ER_TINY_RENDERER
            if self.renderer == "egl":
                engine = pybullet.ER_BULLET_HARDWARE_OPENGL
                # It shows only bodies that are loaded after it.
                with quiet_driver():
                    load_egl(self._client)
            self._build()
        except BaseException:
            self.close()
            raise
        self._cameras: Cameras | None = None
        if cameras:
            self._cameras = Cameras(self._client, static_size, gripper_size, engine, depth=depth)
        self.observation_space = observation_space(
            static_size, gripper_size, cameras=cameras, depth=depth
        )
        self.action_space = action_space()
        self._ready = False
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def _build(self) -> None:
        """Robot, table, blocks and floor in an empty world."""
        client = self._client
        if self._assets.rigid:
            # Sorts the pairs that may touch, which CALVIN does not.
            pybullet.setPhysicsEngineParameter(
                deterministicOverlappingPairs=1, physicsClientId=client
            )
        pybullet.setGravity(0, 0, _GRAVITY, physicsClientId=client)
        self.robot = Robot(client, self._assets.arm)
        # The body is at the origin, as CALVIN's is: the search for contacts sees the difference.
        pedestal = pybullet.createVisualShape(
            pybullet.GEOM_CYLINDER,
            visualFramePosition=PEDESTAL_CENTRE,
            radius=PEDESTAL_RADIUS,
            length=PEDESTAL_HEIGHT,
            rgbaColor=(1, 1, 1, 1),
            physicsClientId=client,
        )
        pybullet.createMultiBody(baseVisualShapeIndex=pedestal, physicsClientId=client)
        self.robot.add_gear()
        self.robot.reset(np.array(HOME_JOINTS), _HOME_WIDTH_M, 1.0)
        self.table = Table(client, self._geometry, self._assets, _CONSTRUCTION_SEED)
        self._untouched = True

    @property
    def target_pose(self) -> np.ndarray:
        """float64 [6]: the robot's accumulated target, position and Euler angles."""
        return self.robot.target_pose

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Start an episode.

        ``options`` may hold ``robot_obs`` [15], of which the gripper's width, joints and command
        count, and ``scene_obs`` [24]. Without ``robot_obs`` the arm starts at home; without
        ``scene_obs`` everything is closed and off and the blocks are scattered.
        """
        robot_obs, scene_obs = reset_states(options)
        super().reset(seed=seed)
        if not self._untouched:
            pybullet.resetSimulation(physicsClientId=self._client)
            self._build()
        self._untouched = False
        self.table.reset(scene_obs, self.np_random)
        if robot_obs is None:
            self.robot.reset(np.array(HOME_JOINTS), _HOME_WIDTH_M, 1.0)
        else:
            command = 1.0 if robot_obs[14] >= 0 else -1.0
            self.robot.reset(robot_obs[7:14], float(robot_obs[6]), command)
        pybullet.stepSimulation(physicsClientId=self._client)
        self._ready = True
        return self._observe()

    def step(self, action: Any) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of 1/30 s; ``action`` as the class describes it."""
        parsed = parse_action(action)
        if not self._ready:
            raise WamError("step: the environment has not been reset")
        self.robot.apply(parsed)
        for _ in range(_SUBSTEPS):
            pybullet.stepSimulation(physicsClientId=self._client)
        self.table.update()
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def render(self) -> np.ndarray:
        """The static camera's image."""
        if self._cameras is None:
            raise WamError("render: the environment was made with cameras=False")
        return self._cameras.static().rgb

    def close(self) -> None:
        """Release the physics client; a second call does nothing."""
        if self._client >= 0:
            quiet = quiet_driver() if self.renderer == "egl" else contextlib.nullcontext()
            with quiet, contextlib.suppress(pybullet.error):
                pybullet.disconnect(physicsClientId=self._client)
            self._client = -1

    def _observe(self) -> tuple[ObservationDict, dict[str, Any]]:
        robot_obs, robot_info = self.robot.observe()
        scene_obs, scene_info = self.table.observe()
        observation: ObservationDict = {"robot_obs": robot_obs, "scene_obs": scene_obs}
        if self._cameras is not None:
            pictures = {
                "static": self._cameras.static(),
                "gripper": self._cameras.gripper(*self.robot.camera()),
            }
            for name, (rgb, depth) in pictures.items():
                observation[f"rgb_{name}"] = rgb
                if depth is not None:
                    observation[f"depth_{name}"] = depth
        robot_info["contacts"] = self.table.contacts(self.robot.uid)
        return observation, {"robot_info": robot_info, "scene_info": scene_info}
