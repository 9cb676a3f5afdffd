"""The arm: motors, inverse kinematics and state (docs/calvin.md 2.2 to 2.6)."""

from pathlib import Path
from typing import Any

import numpy as np

from wam.envs.scene_files.geometry import ROBOT_BASE
from wam.envs.simulator.actions import (
    AbsoluteJoints,
    AbsolutePose,
    Action,
    RelativeJoints,
    RelativePose,
)
from wam.envs.simulator.engine import pybullet

TCP_LINK = 15
CAMERA_LINK = 14
ARM_JOINTS = tuple(range(7))
FINGER_JOINTS = (9, 11)

HOME_JOINTS = (
    -1.21779206,
    1.03987646,
    2.11978261,
    -2.34205014,
    -0.87015947,
    1.64119353,
    0.55344866,
)
FINGER_OPEN_M = 0.04

_LOWER = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
_UPPER = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
_NULL_LOWER, _NULL_UPPER, _NULL_RANGE = [-7.0] * 9, [7.0] * 9, [7.0] * 9
_NULL_REST = [*HOME_JOINTS, FINGER_OPEN_M, FINGER_OPEN_M]

_ARM_FORCE, _ARM_VELOCITY = 200.0, 2.0
_CLOSE_FORCE, _OPEN_FORCE, _FINGER_VELOCITY = 200.0, 2.0, 1.0


class Robot:
    """The arm of one physics client."""

    def __init__(self, client: int, urdf: Path) -> None:
        self._client = client
        self.uid: int = pybullet.loadURDF(
            str(urdf), basePosition=ROBOT_BASE, useFixedBase=True, physicsClientId=client
        )
        self.gripper_action = 1.0
        self._target: np.ndarray | None = None

    def add_gear(self) -> None:
        """Couple the two fingers."""
        gear = pybullet.createConstraint(
            self.uid,
            FINGER_JOINTS[0],
            self.uid,
            FINGER_JOINTS[1],
            jointType=pybullet.JOINT_GEAR,
            jointAxis=[1, 0, 0],
            parentFramePosition=[0, 0, 0],
            childFramePosition=[0, 0, 0],
            physicsClientId=self._client,
        )
        pybullet.changeConstraint(
            gear, gearRatio=-1, erp=0.1, maxForce=50, physicsClientId=self._client
        )

    @property
    def target_pose(self) -> np.ndarray:
        """float64 [6]: position (m) and Euler angles (rad) that relative actions add to.

        After an action on the joints there is no such target until the next action on the pose;
        this is then the TCP's own pose, so that a relative action starts from where the arm is.
        """
        return self._tcp_pose() if self._target is None else self._target.copy()

    def reset(self, joints: np.ndarray, width: float, gripper_action: float) -> None:
        """Put the arm at ``joints`` [7] with the fingers ``width`` metres apart, at rest."""
        for joint, position in zip(ARM_JOINTS, joints, strict=True):
            pybullet.resetJointState(self.uid, joint, position, 0.0, physicsClientId=self._client)
            self._drive(joint, position, _ARM_FORCE, _ARM_VELOCITY)
        for joint in FINGER_JOINTS:
            pybullet.resetJointState(self.uid, joint, width / 2, 0.0, physicsClientId=self._client)
            self._drive(joint, width / 2, _CLOSE_FORCE, _FINGER_VELOCITY)
        self.gripper_action = gripper_action
        self._target = self._tcp_pose()

    def apply(self, action: Action) -> None:
        """Send the motors where ``action`` wants the TCP, or the joints, and the fingers.

        Targets of the joints are not clipped; the arm stops at its own limits.
        """
        match action:
            case RelativePose(motion):
                self._target = self.target_pose + motion
                joints = self.solve(self._target)
            case AbsolutePose(pose):
                self._target = pose
                joints = self.solve(pose)
            case RelativeJoints(motion):
                self._target = None
                joints = self._arm_joints() + motion
            case AbsoluteJoints(joints):
                self._target = None
        self.gripper_action = action.gripper
        for joint, position in zip(ARM_JOINTS, joints, strict=True):
            self._drive(joint, position, _ARM_FORCE, _ARM_VELOCITY)
        opening = self.gripper_action > 0
        width, force = (FINGER_OPEN_M, _OPEN_FORCE) if opening else (0.0, _CLOSE_FORCE)
        for joint in FINGER_JOINTS:
            self._drive(joint, width, force, _FINGER_VELOCITY)

    def solve(self, pose: np.ndarray) -> np.ndarray:
        """Joint angles float64 [7] near the current ones that bring the TCP to ``pose`` [6]."""
        solution = pybullet.calculateInverseKinematics(
            self.uid,
            TCP_LINK,
            pose[:3].tolist(),
            pybullet.getQuaternionFromEuler(pose[3:].tolist()),
            lowerLimits=_NULL_LOWER,
            upperLimits=_NULL_UPPER,
            jointRanges=_NULL_RANGE,
            restPoses=_NULL_REST,
            physicsClientId=self._client,
        )
        return np.clip(solution[:7], _LOWER, _UPPER)

    def tcp(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Position and quaternion xyzw of the TCP as Bullet cached them.

        After a physics step they belong to the beginning of that step: 1/240 s older than the
        joints. CALVIN's recorded poses have the same age.
        """
        state = pybullet.getLinkState(self.uid, TCP_LINK, physicsClientId=self._client)
        return state[0], state[1]

    def camera(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Position and quaternion xyzw of the wrist camera's link."""
        state = pybullet.getLinkState(self.uid, CAMERA_LINK, physicsClientId=self._client)
        return state[0], state[1]

    def observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        """``robot_obs`` float64 [15] (docs/calvin.md 1.3) and ``robot_info``."""
        position, quaternion = self.tcp()
        euler = pybullet.getEulerFromQuaternion(quaternion)
        states = pybullet.getJointStates(
            self.uid, (*ARM_JOINTS, *FINGER_JOINTS), physicsClientId=self._client
        )
        joints = [state[0] for state in states]
        width = joints[7] + joints[8]
        observation = np.array([*position, *euler, width, *joints[:7], self.gripper_action])
        info = {
            "tcp_pos": position,
            "tcp_orn": euler,
            "gripper_opening_width": width,
            "arm_joint_states": joints[:7],
            "gripper_action": self.gripper_action,
            "uid": self.uid,
        }
        return observation, info

    def _tcp_pose(self) -> np.ndarray:
        position, quaternion = self.tcp()
        return np.array([*position, *pybullet.getEulerFromQuaternion(quaternion)])

    def _arm_joints(self) -> np.ndarray:
        states = pybullet.getJointStates(self.uid, ARM_JOINTS, physicsClientId=self._client)
        return np.array([state[0] for state in states])

    def _drive(self, joint: int, position: float, force: float, velocity: float) -> None:
        pybullet.setJointMotorControl2(
            self.uid,
            joint,
            pybullet.POSITION_CONTROL,
            targetPosition=position,
            force=force,
            maxVelocity=velocity,
            physicsClientId=self._client,
        )
