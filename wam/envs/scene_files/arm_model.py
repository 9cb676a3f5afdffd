"""URDF of the Franka arm with CALVIN's longer fingers, tool frame and wrist camera.

The arm's meshes are those that ship with pybullet_data, named by path; fingers and pads are our
own. Numbers: docs/calvin.md 2.2.
"""

from math import cos, pi, sin
from pathlib import Path
from typing import Literal

from wam.envs.scene_files.geometry import Vector
from wam.envs.scene_files.low_poly import low_poly_obj
from wam.envs.scene_files.solids import Solid, box, obj_text, prism
from wam.envs.scene_files.urdf import Shape, box_shape, joint, link, mesh_shape, robot

RobotModel = Literal["light", "full"]

_WHITE = (0.95, 0.95, 0.95)
_GREY = (0.45, 0.45, 0.47)
_CELL_M = 0.015
"""Detail of the light model."""

# name, mass, centre of mass
_LINKS: tuple[tuple[str, float, Vector], ...] = (
    ("link0", 2.9, (0.0, 0.0, 0.05)),
    ("link1", 2.7, (0.0, -0.04, -0.05)),
    ("link2", 2.73, (0.0, -0.04, 0.06)),
    ("link3", 2.04, (0.01, 0.01, -0.05)),
    ("link4", 2.08, (-0.03, 0.03, 0.02)),
    ("link5", 3.0, (0.0, 0.04, -0.12)),
    ("link6", 1.3, (0.04, 0.0, 0.0)),
    ("link7", 0.2, (0.0, 0.0, 0.08)),
)

# offset xyz and rpy in the parent, limits
_HALF_PI = 1.57079632679
_JOINTS: tuple[tuple[Vector, Vector, tuple[float, float]], ...] = (
    ((0.0, 0.0, 0.333), (0.0, 0.0, 0.0), (-2.9671, 2.9671)),
    ((0.0, 0.0, 0.0), (-_HALF_PI, 0.0, 0.0), (-1.8326, 1.8326)),
    ((0.0, -0.316, 0.0), (_HALF_PI, 0.0, 0.0), (-2.9671, 2.9671)),
    ((0.0825, 0.0, 0.0), (_HALF_PI, 0.0, 0.0), (-3.1416, 0.0)),
    ((-0.0825, 0.384, 0.0), (-_HALF_PI, 0.0, 0.0), (-2.9671, 2.9671)),
    ((0.0, 0.0, 0.0), (_HALF_PI, 0.0, 0.0), (-0.0873, 3.8223)),
    ((0.088, 0.0, 0.0), (_HALF_PI, 0.0, 0.0), (-2.9671, 2.9671)),
)
_VELOCITY = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
_EFFORT = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)

_FINGER_CONTACT = {
    "friction_anchor": None,
    "stiffness": 30000.0,
    "damping": 1000.0,
    "spinning_friction": 0.1,
    "lateral_friction": 1.0,
}
_PAD_CONTACT = {"lateral_friction": 1.0, "spinning_friction": 0.001}


def arm_files(meshes: Path, model: RobotModel) -> dict[str, bytes]:
    """``arm.urdf`` with the finger meshes; ``meshes`` is pybullet_data's ``franka_panda/meshes``.

    ``light`` shows coarse versions of the arm's collision meshes (about 2,000 triangles), ``full``
    the detailed meshes (about 100,000).
    """
    files = {f"finger_{side}.obj": obj_text(_finger(sign)).encode() for side, sign in _SIDES}
    if model == "light":
        for name in (*(entry[0] for entry in _LINKS), "hand"):
            text = low_poly_obj(meshes / "collision" / f"{name}.obj", _CELL_M)
            files[f"arm_{name}.obj"] = text.encode()
    parts = [
        link(
            f"panda_{name}",
            mass=mass,
            centre=centre,
            collisions=[mesh_shape(str(meshes / "collision" / f"{name}.obj"))],
            visuals=[_shown(meshes, model, name)],
        )
        for name, mass, centre in _LINKS
    ]
    parts += [
        joint(
            f"panda_joint{i + 1}",
            "revolute",
            f"panda_link{i}",
            f"panda_link{i + 1}",
            xyz=xyz,
            rpy=rpy,
            axis=(0.0, 0.0, 1.0),
            limit=limit,
            effort=_EFFORT[i],
            velocity=_VELOCITY[i],
        )
        for i, (xyz, rpy, limit) in enumerate(_JOINTS)
    ]
    parts += [
        link("panda_link8", mass=0.0),
        joint("panda_joint8", "fixed", "panda_link7", "panda_link8", xyz=(0.0, 0.0, 0.107)),
        link(
            "panda_hand",
            mass=0.81,
            centre=(0.0, 0.0, 0.04),
            collisions=[mesh_shape(str(meshes / "collision" / "hand.obj"))],
            visuals=[_shown(meshes, model, "hand")],
        ),
        joint("panda_hand_joint", "fixed", "panda_link8", "panda_hand", rpy=(0.0, 0.0, -pi / 4)),
    ]
    for number, (side, sign) in enumerate(_SIDES, start=1):
        parts += _finger_links(number, side, sign)
    for name, child, mass, xyz, rpy in (
        ("panda_grasptarget_hand", "panda_grasptarget", 0.0, (0.0, 0.0, 0.105), (0.0, 0.0, 0.0)),
        ("camera_joint", "gripper_cam", 0.2, (-0.1, 0.0, 0.0), (1.3, 0.0, -1.57)),
        ("tcp_joint", "tcp", 1e-5, (0.0, 0.0, 0.14), (0.0, 0.0, 0.0)),
    ):
        parts.append(link(child, mass=mass))
        parts.append(joint(name, "fixed", "panda_hand", child, xyz=xyz, rpy=rpy))
    files["arm.urdf"] = robot("panda_longer_finger", parts).encode()
    return files


_SIDES = (("left", 1.0), ("right", -1.0))


def _shown(meshes: Path, model: RobotModel, name: str) -> Shape:
    """What the cameras see of a link."""
    if model == "light":
        return mesh_shape(f"arm_{name}.obj", _GREY if name in ("link5", "link7") else _WHITE)
    detailed = meshes / "visual" / f"{name}.obj"
    # pybullet_data has no detailed mesh of the first and the last link.
    shown = detailed if detailed.is_file() else meshes / "collision" / f"{name}.obj"
    return mesh_shape(str(shown), _WHITE)


def _finger_links(number: int, side: str, sign: float) -> list[str]:
    """A finger with its pad; the right one mirrors the left in y."""
    finger, pad = f"panda_{side}finger", f"finger_{side}_tip"
    pad_xyz, pad_yaw = (sign * 0.0009, sign * 0.021, 0.066), -sign * 1.57
    y = sorted((sign * 0.0039, sign * 0.027))
    return [
        link(
            finger,
            mass=0.1,
            centre=(0.0, sign * 0.01, 0.02),
            collisions=[box_shape((-0.0105, y[0], 0.0002), (0.0105, y[1], 0.0964))],
            visuals=[mesh_shape(f"finger_{side}.obj", _WHITE)],
            contact=_FINGER_CONTACT,
        ),
        joint(
            f"panda_finger_joint{number}",
            "prismatic",
            "panda_hand",
            finger,
            xyz=(0.0, 0.0, 0.0584),
            axis=(0.0, sign, 0.0),
            limit=(0.0, 0.04),
            effort=20.0,
            velocity=0.2,
        ),
        link(
            pad,
            mass=1e-4,
            collisions=[_pad(sign, pad_xyz, pad_yaw)],
            visuals=[_coloured(_pad(sign, pad_xyz, pad_yaw))],
            contact=_PAD_CONTACT,
        ),
        joint(
            f"joint_finger_tip_{side}", "fixed", finger, pad, xyz=pad_xyz, rpy=(0.0, 0.0, pad_yaw)
        ),
    ]


def _pad(sign: float, xyz: Vector, yaw: float) -> Shape:
    """The pad's hull, known in the finger's frame, as a box of the pad's frame."""
    low, high = (-0.008, 0.0009, 0.0707), (0.010, 0.0049, 0.0957)
    centre = [sign * (low[0] + high[0]) / 2, sign * (low[1] + high[1]) / 2, (low[2] + high[2]) / 2]
    x, y, z = (a - b for a, b in zip(centre, xyz, strict=True))
    c, s = cos(-yaw), sin(-yaw)
    size = [b - a for a, b in zip(low, high, strict=True)]
    geometry = '<box size="{:.6g} {:.6g} {:.6g}"/>'.format(*size)
    return Shape(geometry, (c * x - s * y, s * x + c * y, z), (0.0, 0.0, -yaw))


def _coloured(shape: Shape) -> Shape:
    return Shape(shape.geometry, shape.xyz, shape.rpy, _GREY)


def _finger(sign: float) -> list[Solid]:
    """What the cameras see of a finger: a broad root and a tapered tip."""
    root = sorted((sign * 0.004, sign * 0.027))
    outline = [(0.0039, 0.022), (0.020, 0.022), (0.012, 0.0964), (0.0039, 0.0964)]
    if sign < 0:
        outline = [(-y, z) for y, z in reversed(outline)]
    broad = box((-0.0105, 0.0105), (root[0], root[1]), (0.0, 0.022))
    return [broad, prism((-0.009, 0.009), outline)]
