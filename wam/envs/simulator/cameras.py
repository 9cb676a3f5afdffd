"""The static and the wrist camera (docs/calvin.md 2.9)."""

from typing import NamedTuple

import numpy as np

from wam.envs.simulator.engine import pybullet
from wam.envs.simulator.quiet import quiet_driver

_STATIC_EYE = (2.871459009488717, -2.166602199425597, 2.555159848480571)
_STATIC_TARGET = (-0.026242351159453392, -0.0302329882979393, 0.3920000493526459)
_STATIC_UP = (0.4041403970338857, 0.22629790978217404, 0.8862616969685161)
_STATIC_FOV_DEG, _STATIC_NEAR, _STATIC_FAR = 10.0, 0.01, 10.0
_GRIPPER_FOV_DEG, _GRIPPER_NEAR, _GRIPPER_FAR = 75.0, 0.01, 2.0
_SHADOWLESS_IMAGES = 2


class Picture(NamedTuple):
    """What a camera sees."""

    rgb: np.ndarray
    depth: np.ndarray | None


class Cameras:
    """Both cameras of one physics client.

    A picture is ``rgb`` uint8 [size, size, 3] and, with ``depth``, the distance (m) along the
    optical axis, float32 [size, size]; row 0 is on top.
    """

    def __init__(
        self, client: int, static_size: int, gripper_size: int, renderer: int, *, depth: bool
    ) -> None:
        self._client = client
        self._renderer = renderer
        self._depth = depth
        self._static_size, self._gripper_size = static_size, gripper_size
        self.static_view = pybullet.computeViewMatrix(_STATIC_EYE, _STATIC_TARGET, _STATIC_UP)
        self.static_projection = pybullet.computeProjectionMatrixFOV(
            _STATIC_FOV_DEG, 1.0, _STATIC_NEAR, _STATIC_FAR
        )
        self.gripper_projection = pybullet.computeProjectionMatrixFOV(
            _GRIPPER_FOV_DEG, 1.0, _GRIPPER_NEAR, _GRIPPER_FAR
        )
        if renderer == pybullet.ER_BULLET_HARDWARE_OPENGL:
            # The first images have no shadows yet, and come with a greeting.
            with quiet_driver():
                for _ in range(_SHADOWLESS_IMAGES):
                    self.static()

    def static(self) -> Picture:
        """The picture of the camera that overlooks the table."""
        rgb, buffer = self._render(self._static_size, self.static_view, self.static_projection)
        return Picture(rgb, self._metres(buffer, _STATIC_NEAR, _STATIC_FAR))

    def gripper(self, position: tuple[float, ...], quaternion: tuple[float, ...]) -> Picture:
        """The picture of the wrist camera at the pose of its link."""
        view = self.gripper_view(position, quaternion)
        rgb, buffer = self._render(self._gripper_size, view, self.gripper_projection)
        return Picture(rgb, self._metres(buffer, _GRIPPER_NEAR, _GRIPPER_FAR))

    @staticmethod
    def gripper_view(position: tuple[float, ...], quaternion: tuple[float, ...]) -> tuple:
        """View matrix of a camera that looks along +y of its link, with -z up."""
        rotation = np.array(pybullet.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        target = np.asarray(position) + rotation[:, 1]
        return pybullet.computeViewMatrix(position, target.tolist(), (-rotation[:, 2]).tolist())

    def _metres(self, buffer: np.ndarray, near: float, far: float) -> np.ndarray | None:
        return far * near / (far - (far - near) * buffer) if self._depth else None

    def _render(self, size: int, view: tuple, projection: tuple) -> tuple[np.ndarray, np.ndarray]:
        image = pybullet.getCameraImage(
            size,
            size,
            view,
            projection,
            renderer=self._renderer,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self._client,
        )
        rgba = np.asarray(image[2], dtype=np.uint8).reshape(size, size, 4)
        buffer = np.asarray(image[3], dtype=np.float32).reshape(size, size)
        return np.ascontiguousarray(rgba[..., :3]), buffer
