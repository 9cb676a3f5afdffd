"""Which environment to make: the embedded simulator or the official ``calvin_env``, and how."""

import importlib.util
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

from wam.envs.scene_files.arm_model import RobotModel
from wam.envs.simulator.renderer import Renderer, resolve_renderer
from wam.errors import WamError

Backend = Literal["embedded", "calvin_env"]
SceneSource = Literal["embedded", "calvin"]
World = Literal["embedded", "assets", "official"]
"""Our own scene, CALVIN's scene files in our simulator, or the official package."""

CALVIN_ROBOT = "panda_longer_finger"
"""The arm of CALVIN's own scenes."""


class _Package(NamedTuple):
    name: str
    module: str
    advice: str


_SIM = 'pip install "wam[sim]"'
_EMBEDDED = (_Package("pybullet", "pybullet", _SIM), _Package("gymnasium", "gymnasium", _SIM))
_PACKAGES: dict[Backend, tuple[_Package, ...]] = {
    "embedded": _EMBEDDED,
    "calvin_env": (
        *_EMBEDDED,
        # With its dependencies it would install a second OpenCV over this project's. Its submodule
        # is for the tactile sensors, which are not used.
        _Package(
            "calvin_env",
            "calvin_env",
            "git clone https://github.com/mees/calvin_env, then pip install --no-deps -e "
            "./calvin_env and pip install hydra-core hydra-colorlog gym gitpython",
        ),
        _Package("hydra-core", "hydra", "pip install hydra-core"),
        _Package("hydra-colorlog", "hydra_plugins.hydra_colorlog", "pip install hydra-colorlog"),
        _Package("gym", "gym", "pip install gym"),
        _Package("gitpython", "git", "pip install gitpython"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """Everything that makes one environment differ from another."""

    backend: Backend
    scene: str
    """A to D"""
    assets: str | None
    """Embedded: directory of CALVIN's scene assets; null: the scene is our own. calvin_env: the
    checkout with ``conf/`` and ``data/``; null: the one that the package is installed from."""
    renderer: Renderer
    robot_model: RobotModel
    """Of the embedded scene; CALVIN's assets bring their own arm."""
    static_size: int
    """Pixels of the square static image."""
    gripper_size: int
    """Pixels of the square wrist image."""
    depth: bool = False
    """Depth images too."""

    def resolved(self) -> Self:
        """The same with ``renderer`` either ``tiny`` or ``egl``; errors as `resolve_renderer`."""
        return replace(self, renderer=resolve_renderer(self.renderer))

    @property
    def one_per_process(self) -> bool:
        """Whether a process can hold one of these environments only (docs/calvin.md 2.10)."""
        return self.backend == "calvin_env" or self.renderer == "egl"

    def description(self) -> dict[str, str]:
        """Backend, renderer, arm and scene source, which are recorded with frames and results."""
        source = scene_source(self.backend, self.assets)
        return {
            "backend": self.backend,
            "renderer": self.renderer,
            "robot_model": self.robot_model if source == "embedded" else CALVIN_ROBOT,
            "scene_source": source,
        }


def scene_source(backend: Backend, assets: str | None) -> SceneSource:
    """Whose scene it is: our own, or CALVIN's."""
    return "embedded" if backend == "embedded" and assets is None else "calvin"


def require_packages(backend: Backend, why: str) -> None:
    """Raise WamError, with what to run, for the first package that ``backend`` lacks."""
    for package in _PACKAGES[backend]:
        if not _is_installed(package.module):
            raise WamError(f"{package.name} is not installed; {why}: {package.advice}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The package around it.
        return False
