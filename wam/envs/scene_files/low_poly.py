"""Fewer triangles for what a 64-pixel camera sees: vertex clustering of an OBJ mesh."""

from pathlib import Path

import numpy as np


def low_poly_obj(path: Path, cell_m: float) -> str:
    """The mesh of ``path`` with all vertices of a cubic cell of ``cell_m`` merged, as OBJ text.

    Normals are averaged over the faces around a vertex, weighted by area.
    """
    vertices, triangles = _read(path)
    cells = np.floor(vertices / cell_m).astype(np.int64)
    _, cluster = np.unique(cells, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = int(cluster.max()) + 1
    sums = np.stack([np.bincount(cluster, vertices[:, k], count) for k in range(3)], axis=1)
    merged = sums / np.bincount(cluster, minlength=count)[:, None]
    faces = cluster[triangles]
    distinct = (
        (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    )
    faces = faces[distinct]
    # A cyclic shift keeps the winding: equal faces have equal rows when the least vertex leads.
    shift = faces.argmin(axis=1)[:, None] + np.arange(3)
    faces = np.unique(np.take_along_axis(faces, shift % 3, axis=1), axis=0)
    weighted = np.cross(
        merged[faces[:, 1]] - merged[faces[:, 0]], merged[faces[:, 2]] - merged[faces[:, 0]]
    )
    normals = np.zeros_like(merged)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    lines = ["v {:.5f} {:.5f} {:.5f}".format(*vertex) for vertex in merged]
    lines += ["vn {:.4f} {:.4f} {:.4f}".format(*normal) for normal in normals]
    lines += ["f " + " ".join(f"{i + 1}//{i + 1}" for i in face) for face in faces]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float64 [V, 3] and triangles int64 [F, 3] of an OBJ file."""
    vertices, triangles = [], []
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
            fan = range(1, len(corners) - 1)
            triangles += [(corners[0], corners[k], corners[k + 1]) for k in fan]
    return np.array(vertices), np.array(triangles)
