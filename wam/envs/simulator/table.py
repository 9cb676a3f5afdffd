"""The play table at work: doors, button, switch, lights and blocks (docs/calvin.md 2.5 to 2.8)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wam.envs.scene_files import geometry as g
from wam.envs.scene_files.assets import SceneAssets
from wam.envs.simulator.engine import pybullet
from wam.errors import WamError
from wam.tasks import BUTTON, DRAWER, LED, LIGHTBULB, SLIDER, SWITCH

_MOTOR_FORCE = 4.0
_BUTTON_PRESSED = g.BUTTON_LIMIT / 2
_SWITCH_ON = g.SWITCH_LIMIT / 2
_SAMPLING_TRIES = 1000


class Table:
    """Table, blocks and floor of one physics client."""

    def __init__(
        self, client: int, geometry: g.SceneGeometry, assets: SceneAssets, seed: int
    ) -> None:
        """Load all of it, the blocks where ``seed`` says, as CALVIN does: the order in which
        contacts are solved depends on what was near what."""
        self._client = client
        self._geometry = geometry
        # The order of loading fixes the body ids.
        rng = np.random.default_rng(seed)
        self.blocks = {}
        for name, path in assets.blocks:
            position, quaternion = self._sampled_pose(rng)
            self.blocks[name] = self._load(
                path,
                assets.scaling,
                fixed=False,
                rigid=assets.rigid,
                basePosition=position,
                baseOrientation=quaternion,
            )
        self.uid = self._load(assets.table, assets.scaling)
        self.plane = self._load(assets.plane)
        self.links = {"base_link": -1}
        self._joints: dict[str, int] = {}
        for index in range(pybullet.getNumJoints(self.uid, physicsClientId=client)):
            info = pybullet.getJointInfo(self.uid, index, physicsClientId=client)
            self._joints[info[1].decode()] = index
            self.links[info[12].decode()] = index
        self._joint_order = [
            self._joints[n] for n in (g.SLIDE_JOINT, g.DRAWER_JOINT, g.BUTTON_JOINT, g.SWITCH_JOINT)
        ]
        self._fixtures = {
            self._load_fixture(path): self.links[link] for link, path in assets.fixtures
        }
        self.bulb = self.led = 0
        self._button_pressed = self._switch_on = False

    def _load(
        self,
        path: Path,
        scaling: float = 1.0,
        *,
        fixed: bool = True,
        rigid: bool = False,
        **pose: Any,
    ) -> int:
        uid: int = pybullet.loadURDF(
            str(path),
            useFixedBase=fixed,
            globalScaling=scaling,
            useMaximalCoordinates=rigid,
            physicsClientId=self._client,
            **pose,
        )
        return uid

    def _load_fixture(self, path: Path) -> int:
        """A fixed part of the table, which its jointed parts pass through."""
        uid = self._load(path, rigid=True)
        for link in self.links.values():
            pybullet.setCollisionFilterPair(
                self.uid, uid, link, -1, enableCollision=0, physicsClientId=self._client
            )
        return uid

    def reset(self, scene_obs: np.ndarray | None, rng: np.random.Generator) -> None:
        """Restore ``scene_obs`` [24], or close and switch off everything and scatter the blocks."""
        values = np.zeros(24) if scene_obs is None else scene_obs
        self._reset_joint(g.SLIDE_JOINT, values[SLIDER], pybullet.VELOCITY_CONTROL)
        self._reset_joint(g.DRAWER_JOINT, values[DRAWER], pybullet.VELOCITY_CONTROL)
        self._set_light("bulb", int(values[LIGHTBULB]))
        self._set_light("led", int(values[LED]))
        self._reset_joint(g.BUTTON_JOINT, values[BUTTON], pybullet.POSITION_CONTROL)
        self._reset_joint(g.SWITCH_JOINT, values[SWITCH], pybullet.VELOCITY_CONTROL)
        # As in a fresh client of CALVIN: the first control step re-evaluates button and switch.
        self._button_pressed = self._switch_on = False
        if scene_obs is None:
            self._scatter(rng)
            return
        for index, uid in enumerate(self.blocks.values()):
            pose = scene_obs[6 + 6 * index : 12 + 6 * index].tolist()
            self._place(uid, pose[:3], pybullet.getQuaternionFromEuler(pose[3:]))

    def update(self) -> None:
        """Button and switch logic, once per control step."""
        (button, *_), (switch, *_) = pybullet.getJointStates(
            self.uid, self._joint_order[2:], physicsClientId=self._client
        )
        pressed = button > _BUTTON_PRESSED
        if pressed and not self._button_pressed:
            self._set_light("led", 1 - self.led)
        self._button_pressed = pressed
        switch_on = switch > _SWITCH_ON
        if switch_on != self._switch_on:
            self._set_light("bulb", int(switch_on))
        self._switch_on = switch_on

    def observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        """``scene_obs`` float64 [24] and ``scene_info`` (docs/calvin.md 1.3, 2.6)."""
        slide, drawer, button, switch = (
            state[0]
            for state in pybullet.getJointStates(
                self.uid, self._joint_order, physicsClientId=self._client
            )
        )
        values = [slide, drawer, button, switch, self.bulb, self.led]
        movable = {}
        for name, uid in self.blocks.items():
            position, quaternion = pybullet.getBasePositionAndOrientation(
                uid, physicsClientId=self._client
            )
            linear, angular = pybullet.getBaseVelocity(uid, physicsClientId=self._client)
            values += position
            values += pybullet.getEulerFromQuaternion(quaternion)
            movable[name] = {
                "current_pos": position,
                "current_orn": quaternion,
                "current_lin_vel": linear,
                "current_ang_vel": angular,
                "contacts": self.contacts(uid),
                "uid": uid,
            }
        table = {"uid": self.uid, "links": self.links, "contacts": self.contacts(self.uid)}
        return np.array(values, dtype=np.float64), {
            "fixed_objects": {"table": table},
            "movable_objects": movable,
            "doors": {
                g.SLIDE_JOINT: {"current_state": slide},
                g.DRAWER_JOINT: {"current_state": drawer},
            },
            "buttons": {g.BUTTON_JOINT: {"joint_state": button, "logical_state": self.led}},
            "switches": {
                g.SWITCH_JOINT: {"joint_state": switch, "logical_state": int(self._switch_on)}
            },
            "lights": {
                "lightbulb": {"logical_state": self.bulb},
                "led": {"logical_state": self.led},
            },
        }

    def contacts(self, uid: int) -> Sequence[tuple]:
        """PyBullet's contact points of body ``uid``, its own side first.

        Fixtures show as the links of the table that they are.
        """
        points = pybullet.getContactPoints(bodyA=uid, physicsClientId=self._client)
        fixtures = self._fixtures
        if not fixtures:
            return points
        if uid == self.uid:
            for fixture in fixtures:
                points += pybullet.getContactPoints(bodyA=fixture, physicsClientId=self._client)
        return [
            self._as_table(point) if point[1] in fixtures or point[2] in fixtures else point
            for point in points
        ]

    def _as_table(self, point: tuple) -> tuple:
        flag, body, other, link, other_link, *rest = point
        if body in self._fixtures:
            body, link = self.uid, self._fixtures[body]
        if other in self._fixtures:
            other, other_link = self.uid, self._fixtures[other]
        return (flag, body, other, link, other_link, *rest)

    def _reset_joint(self, name: str, position: float, control: int) -> None:
        joint = self._joints[name]
        pybullet.resetJointState(self.uid, joint, position, 0.0, physicsClientId=self._client)
        goal = {"targetPosition": 0.0} if control == pybullet.POSITION_CONTROL else {}
        pybullet.setJointMotorControl2(
            self.uid, joint, control, force=_MOTOR_FORCE, physicsClientId=self._client, **goal
        )

    def _set_light(self, which: str, state: int) -> None:
        if which == "bulb":
            self.bulb, link, colour = state, "light_link", g.BULB_ON
        else:
            self.led, link, colour = state, "led_link", g.LED_ON
        pybullet.changeVisualShape(
            self.uid,
            self.links[link],
            rgbaColor=colour if state else g.LIGHT_OFF,
            physicsClientId=self._client,
        )

    def _place(self, uid: int, position: Sequence[float], quaternion: Sequence[float]) -> None:
        pybullet.resetBasePositionAndOrientation(
            uid, position, quaternion, physicsClientId=self._client
        )
        pybullet.resetBaseVelocity(uid, [0, 0, 0], [0, 0, 0], physicsClientId=self._client)

    def _sampled_pose(self, rng: np.random.Generator) -> tuple[Sequence[float], Sequence[float]]:
        """Position and quaternion somewhere on one of the surfaces (docs/calvin.md 2.8).

        CALVIN's own draws: a surface, a position, and three angles of which only one varies.
        """
        surfaces = list(self._geometry.surfaces.values())
        low, high = surfaces[rng.integers(len(surfaces))]
        position = rng.uniform(low, high).tolist()
        angles = rng.uniform([0.0, 0.0, -np.pi], [0.0, 0.0, np.pi]).tolist()
        return position, pybullet.getQuaternionFromEuler(angles)

    def _scatter(self, rng: np.random.Generator) -> None:
        """Draw block poses until no two blocks touch (docs/calvin.md 2.8)."""
        uids = set(self.blocks.values())
        for _ in range(_SAMPLING_TRIES):
            for uid in self.blocks.values():
                self._place(uid, *self._sampled_pose(rng))
            pybullet.stepSimulation(physicsClientId=self._client)
            touching = any(
                contact[2] in uids
                for uid in uids
                for contact in pybullet.getContactPoints(bodyA=uid, physicsClientId=self._client)
            )
            if not touching:
                return
        name = self._geometry.name
        raise WamError(f"scene {name}: no free block layout in {_SAMPLING_TRIES} tries")
