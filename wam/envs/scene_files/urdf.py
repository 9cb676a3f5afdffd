"""URDF text: links, joints and shapes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wam.envs.scene_files.geometry import Vector

ZERO: Vector = (0.0, 0.0, 0.0)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _origin(xyz: Vector, rpy: Vector) -> str:
    return f'<origin xyz="{_numbers(xyz)}" rpy="{_numbers(rpy)}"/>'


@dataclass(frozen=True)
class Shape:
    """A geometry element at a pose of its link."""

    geometry: str
    xyz: Vector = ZERO
    rpy: Vector = ZERO
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def box_shape(low: Vector, high: Vector) -> Shape:
    """The box between two corners."""
    size = _numbers(b - a for a, b in zip(low, high, strict=True))
    centre = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    return Shape(f'<box size="{size}"/>', centre)


def cylinder_shape(radius: float, length: float, xyz: Vector, rpy: Vector = ZERO) -> Shape:
    """A cylinder around its local z."""
    return Shape(f'<cylinder radius="{radius:.9g}" length="{length:.9g}"/>', xyz, rpy)


def mesh_shape(
    filename: str,
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0),
    rpy: Vector = ZERO,
    xyz: Vector = ZERO,
) -> Shape:
    """A mesh file; as a collision shape its convex hull."""
    return Shape(f'<mesh filename="{filename}" scale="1 1 1"/>', xyz, rpy, colour)


def link(
    name: str,
    *,
    mass: float,
    centre: Vector = ZERO,
    collisions: Iterable[Shape] = (),
    visuals: Iterable[Shape] = (),
    contact: Mapping[str, float | None] | None = None,
) -> str:
    """A link. ``contact`` maps Bullet's contact tags to values, None for a bare tag.

    The inertia written here is a placeholder: Bullet computes it from the collision shapes.
    """
    parts = [f'<link name="{name}">']
    if contact:
        tags = "".join(
            f"<{tag}/>" if value is None else f'<{tag} value="{value:.9g}"/>'
            for tag, value in contact.items()
        )
        parts.append(f"<contact>{tags}</contact>")
    parts.append(
        f'<inertial>{_origin(centre, ZERO)}<mass value="{mass:.9g}"/>'
        '<inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial>'
    )
    for index, shape in enumerate(visuals):
        parts.append(
            f"<visual>{_origin(shape.xyz, shape.rpy)}<geometry>{shape.geometry}</geometry>"
            f'<material name="{name}_{index}"><color rgba="{_numbers((*shape.colour, 1.0))}"/>'
            "</material></visual>"
        )
    parts.extend(
        f"<collision>{_origin(shape.xyz, shape.rpy)}"
        f"<geometry>{shape.geometry}</geometry></collision>"
        for shape in collisions
    )
    parts.append("</link>")
    return "\n".join(parts)


def joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    *,
    xyz: Vector = ZERO,
    rpy: Vector = ZERO,
    axis: Vector | None = None,
    limit: tuple[float, float] | None = None,
    effort: float = 0.0,
    velocity: float = 0.0,
) -> str:
    """A joint; ``limit`` as (lower, upper) in radians or metres."""
    parts = [
        f'<joint name="{name}" type="{kind}">',
        _origin(xyz, rpy),
        f'<parent link="{parent}"/><child link="{child}"/>',
    ]
    if axis is not None:
        parts.append(f'<axis xyz="{_numbers(axis)}"/>')
    if limit is not None:
        parts.append(
            f'<limit lower="{limit[0]:.9g}" upper="{limit[1]:.9g}" '
            f'effort="{effort:.9g}" velocity="{velocity:.9g}"/>'
        )
    parts.append("</joint>")
    return "\n".join(parts)


def robot(name: str, parts: Iterable[str]) -> str:
    """A whole URDF document."""
    return f'<?xml version="1.0"?>\n<robot name="{name}">\n' + "\n".join(parts) + "\n</robot>\n"
