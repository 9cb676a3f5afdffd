"""Convex solids and their Wavefront OBJ text, for collision hulls and for what the cameras see."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from wam.envs.scene_files.geometry import Range, Vector


@dataclass(frozen=True)
class Solid:
    """A convex polyhedron; ``box`` marks one that is a plain box (low corner, high corner)."""

    vertices: tuple[Vector, ...]
    faces: tuple[tuple[int, ...], ...]
    """Vertex indices, counter-clockwise seen from outside."""
    box: tuple[Vector, Vector] | None = None


def box(x: Range, y: Range, z: Range) -> Solid:
    """The box spanned by three ranges."""
    corners = tuple((x[i & 1], y[i >> 1 & 1], z[i >> 2]) for i in range(8))
    faces = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))
    return Solid(corners, faces, ((x[0], y[0], z[0]), (x[1], y[1], z[1])))


def prism(x: Range, outline: Sequence[tuple[float, float]]) -> Solid:
    """The (y, z) polygon ``outline``, counter-clockwise seen from +x, extruded over ``x``."""
    n = len(outline)
    vertices = tuple((side, y, z) for side in x for y, z in outline)
    sides = tuple((i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n))
    return Solid(vertices, (tuple(range(n - 1, -1, -1)), tuple(range(n, 2 * n)), *sides))


def cylinder(radius: float, low: float, high: float, axis: int, sides: int = 16) -> Solid:
    """A cylinder around coordinate axis ``axis`` (0, 1 or 2)."""
    turns = [2 * pi * i / sides for i in range(sides)]
    ring = [(radius * cos(turn), radius * sin(turn)) for turn in turns]
    order = {0: (2, 0, 1), 1: (1, 2, 0), 2: (0, 1, 2)}[axis]
    plain = [(a, b, height) for height in (low, high) for a, b in ring]
    vertices = tuple(tuple(vertex[i] for i in order) for vertex in plain)
    caps = (tuple(range(sides - 1, -1, -1)), tuple(range(sides, 2 * sides)))
    walls = tuple((i, (i + 1) % sides, sides + (i + 1) % sides, sides + i) for i in range(sides))
    return Solid(vertices, (*caps, *walls))  # type: ignore[arg-type]


def sphere(centre: Vector, radius: float, sides: int = 10) -> Solid:
    """A sphere with its poles on local y, of ``sides`` meridians and half as many bands."""
    bands = sides // 2
    vertices: list[Vector] = []
    for band in range(bands + 1):
        polar = pi * band / bands
        for i in range(sides):
            turn = 2 * pi * i / sides
            vertices.append(
                (
                    centre[0] + radius * sin(polar) * cos(turn),
                    centre[1] + radius * cos(polar),
                    centre[2] + radius * sin(polar) * sin(turn),
                )
            )
    faces = []
    for band in range(bands):
        for i in range(sides):
            a, b = band * sides + i, band * sides + (i + 1) % sides
            quad = (a, b, b + sides, a + sides)
            faces.append(quad[1:] if band == 0 else quad[:3] if band == bands - 1 else quad)
    return Solid(tuple(vertices), tuple(faces))


def obj_text(solids: Iterable[Solid], *, texture_m: float = 1.0, material: str = "") -> str:
    """The solids as one OBJ with a normal per face and planar texture coordinates.

    ``texture_m`` is the edge of one texture tile in metres; ``material`` the stem of the ``.mtl``.
    """
    lines = [f"mtllib {material}.mtl", f"usemtl {material}"] if material else []
    faces: list[str] = []
    vertex_count = normal_count = 0
    for solid in solids:
        points = np.asarray(solid.vertices)
        for face in solid.faces:
            corners = points[list(face)]
            normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
            normal = normal / np.linalg.norm(normal)
            kept = np.delete(np.arange(3), np.argmax(np.abs(normal)))
            # The renderer takes the fractional part of a coordinate; 8 tiles keep it positive.
            texture = corners[:, kept] / texture_m + 8.0
            lines.extend("v {:.6f} {:.6f} {:.6f}".format(*corner) for corner in corners)
            lines.extend("vt {:.6f} {:.6f}".format(*pair) for pair in texture)
            lines.append("vn {:.6f} {:.6f} {:.6f}".format(*normal))
            normal_count += 1
            ids = [vertex_count + i + 1 for i in range(len(face))]
            vertex_count += len(face)
            faces.extend(
                "f " + " ".join(f"{i}/{i}/{normal_count}" for i in (ids[0], ids[k], ids[k + 1]))
                for k in range(1, len(ids) - 1)
            )
    return "\n".join([*lines, *faces]) + "\n"


def hull_text(solid: Solid) -> str:
    """A collision hull as OBJ: shared vertices, no normals."""
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*vertex) for vertex in solid.vertices]
    for face in solid.faces:
        lines.extend(
            f"f {face[0] + 1} {face[k] + 1} {face[k + 1] + 1}" for k in range(1, len(face) - 1)
        )
    return "\n".join(lines) + "\n"
