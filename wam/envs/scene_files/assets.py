"""The files of a scene: our own, generated once into a cache, or CALVIN's by path."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pybullet_data

from wam.envs.scene_files.arm_model import RobotModel, arm_files
from wam.envs.scene_files.geometry import scene_geometry
from wam.envs.scene_files.table_model import Files, block_files, floor_files, table_files
from wam.errors import WamError

_LEFTOVER_S = 3600.0


@dataclass(frozen=True)
class SceneAssets:
    """URDF files of one scene."""

    arm: Path
    table: Path
    plane: Path
    blocks: tuple[tuple[str, Path], ...]
    """(name, file) in the order of ``scene_obs``."""
    scaling: float
    """Global scaling of table and blocks."""
    fixtures: tuple[tuple[str, Path], ...] = ()
    """(link, file): fixed parts that are bodies of their own, and the table's link that each is."""

    @property
    def rigid(self) -> bool:
        """Blocks and fixtures are rigid bodies, whose contacts cost half of a jointed body's."""
        return bool(self.fixtures)


def embedded_assets(scene: str, robot_model: RobotModel) -> SceneAssets:
    """Our own scene, its files written to the user's cache directory unless they are there."""
    geometry = scene_geometry(scene)
    if robot_model not in ("light", "full"):
        raise WamError(f"robot_model: unknown model {robot_model!r}; known: light, full")
    directory = _materialise(_embedded_files(scene, robot_model))
    blocks = tuple(
        (f"block_{colour}", directory / f"block_{colour}.urdf") for colour, _ in geometry.blocks
    )
    return SceneAssets(
        directory / "arm.urdf",
        directory / "table.urdf",
        directory / "plane.urdf",
        blocks,
        1.0,
        (("base_link", directory / "frame.urdf"), ("plank_link", directory / "plank.urdf")),
    )


@functools.cache
def _embedded_files(scene: str, robot_model: RobotModel) -> Files:
    geometry = scene_geometry(scene)
    meshes = Path(pybullet_data.getDataPath()) / "franka_panda" / "meshes"
    files = arm_files(meshes, robot_model) | table_files(geometry) | floor_files()
    for colour, size in geometry.blocks:
        files |= block_files(colour, size)
    return files


def calvin_assets(directory: Path, scene: str) -> SceneAssets:
    """CALVIN's own scene below ``directory`` (the folder that holds ``data``, or ``data`` itself).

    Raises WamError naming the first missing file.
    """
    geometry = scene_geometry(scene)
    data = directory / "data" if (directory / "data").is_dir() else directory
    blocks = tuple(
        (f"block_{colour}", data / "blocks" / f"block_{colour}_{size}.urdf")
        for colour, size in geometry.blocks
    )
    table = f"calvin_table_{scene}"
    assets = SceneAssets(
        data / "franka_panda" / "panda_longer_finger.urdf",
        data / table / "urdf" / f"{table}.urdf",
        data / "plane" / "plane.urdf",
        blocks,
        0.8,
    )
    for path in (assets.arm, assets.table, assets.plane, *(path for _, path in blocks)):
        if not path.is_file():
            raise WamError(
                f"{path}: not found; env.assets must be a directory of CALVIN's assets "
                "(with data/calvin_table_D, data/franka_panda, ...) or null for the embedded scene"
            )
    return assets


def _materialise(files: dict[str, bytes]) -> Path:
    """A directory with exactly ``files``; its name is their digest, so it never goes stale."""
    key = hashlib.blake2b(digest_size=12)
    for name in sorted(files):
        key.update(name.encode() + b"\0" + files[name] + b"\0")
    root = _cache_root()
    target = root / key.hexdigest()
    if _holds(target, files):
        return target
    _remove_leftovers(root)
    partial = Path(tempfile.mkdtemp(dir=root, prefix=".scene-"))
    for name, content in files.items():
        (partial / name).write_bytes(content)
    try:
        partial.rename(target)
    except OSError:
        # Another process was first, or a cleaner took some of its files away.
        if _holds(target, files):
            shutil.rmtree(partial)
        else:
            stale = Path(tempfile.mkdtemp(dir=root, prefix=".scene-"))
            target.rename(stale)
            partial.rename(target)
            shutil.rmtree(stale, ignore_errors=True)
    return target


def _remove_leftovers(root: Path) -> None:
    """Remove what processes have left that were killed more than a while ago."""
    for path in root.glob(".scene-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                shutil.rmtree(path)


def _holds(directory: Path, files: dict[str, bytes]) -> bool:
    return all(
        (directory / name).is_file() and (directory / name).stat().st_size == len(content)
        for name, content in files.items()
    )


def _cache_root() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        root = (Path(cache) if cache else Path.home() / ".cache") / "wam" / "scenes"
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except (OSError, RuntimeError):
        # No home, or a read-only one: fall through to the temporary directory.
        pass
    root = Path(tempfile.gettempdir()) / f"wam-scenes-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    return root
