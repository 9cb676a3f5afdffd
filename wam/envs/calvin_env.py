"""The official ``calvin_env`` package behind the interface of :class:`PlayTableEnv`.

What is assumed of the package (docs/calvin.md 1.7, 2.3 to 2.10): it is importable, and its
checkout holds ``conf/`` and ``data/`` beside it; the hydra config ``config_data_collection`` has
the groups ``cameras`` (``static_and_gripper``, ``no_cameras``) and ``scene`` (``calvin_scene_D``,
...), and its ``env`` makes an environment of the old gym API whose ``robot`` keeps ``target_pos``
and ``target_orn``.
"""

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wam.config import FPS
from wam.envs.scene_files.geometry import scene_geometry
from wam.envs.settings import require_packages
from wam.envs.simulator.actions import parse_action
from wam.envs.simulator.quiet import quiet_package
from wam.envs.simulator.renderer import resolve_renderer
from wam.envs.simulator.spaces import (
    DEPTHS,
    IMAGES,
    ObservationDict,
    action_space,
    observation_space,
    reset_states,
)
from wam.errors import WamError
from wam.paths import expanded

_CONFIG = "config_data_collection"


class CalvinEnv(gymnasium.Env[ObservationDict, np.ndarray]):
    """One environment of the package, with observations and actions as :class:`PlayTableEnv`.

    The package's ``info`` is passed on as it is; what it prints and warns of, other than in a step,
    is dropped. ``checkout`` is the directory with ``conf/`` and ``data/``, by default the one that
    the package is installed from. A process should hold one such environment at a time
    (docs/calvin.md 2.10), and only the first episode of an environment can be repeated to the last
    bit (2.5). A seed reaches the environment, not the scene: blocks that are scattered at a reset
    without ``scene_obs`` depend on the resets before.

    Raises WamError where the package or its files are missing or it cannot be made, and for
    malformed reset states or actions; after the latter the environment goes on as before.
    """

    render_mode = "rgb_array"

    def __init__(
        self,
        scene: str = "D",
        checkout: str | Path | None = None,
        renderer: str = "auto",
        static_size: int = 200,
        gripper_size: int = 84,
        cameras: bool = True,
        depth: bool = False,
    ) -> None:
        require_packages("calvin_env", "env.backend calvin_env needs it")
        scene_geometry(scene)
        self.scene = scene
        self.renderer = resolve_renderer(renderer if cameras else "tiny")
        """``tiny`` or ``egl``."""
        self._env: Any = None
        overrides = ["use_vr=false", f"scene=calvin_scene_{scene}"]
        if cameras:
            overrides += ["cameras=static_and_gripper"]
            for camera, size in (("static", static_size), ("gripper", gripper_size)):
                overrides += [f"cameras.{camera}.{side}={size}" for side in ("width", "height")]
        else:
            overrides += ["cameras=no_cameras"]
        files = _find(checkout)
        with quiet_package():
            self._env = _instantiate(files, overrides, use_egl=self.renderer == "egl")
        self._images = IMAGES if cameras else ()
        self._depths = DEPTHS if cameras and depth else ()
        self.observation_space = observation_space(
            static_size, gripper_size, cameras=cameras, depth=depth
        )
        self.action_space = action_space()
        self._ready = False
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    @property
    def target_pose(self) -> np.ndarray:
        """float64 [6]: the robot's accumulated target, position and Euler angles."""
        robot = self._env.robot
        return np.array([*robot.target_pos, *robot.target_orn], np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Start an episode; ``options`` as of :class:`PlayTableEnv`."""
        robot_obs, scene_obs = reset_states(options)
        super().reset(seed=seed)
        if seed is not None:
            self._env.seed(seed)
        with quiet_package():
            observation = self._observe(self._env.reset(robot_obs=robot_obs, scene_obs=scene_obs))
        # The package leaves the last episode's command here.
        observation["robot_obs"][14] = 1.0 if robot_obs is None or robot_obs[14] >= 0 else -1.0
        self._ready = True
        return observation, self._env.get_info()

    def step(self, action: Any) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of 1/30 s."""
        parse_action(action)
        if not self._ready:
            raise WamError("step: the environment has not been reset")
        if not isinstance(action, dict) and not (isinstance(action, tuple) and len(action) == 3):
            action = np.array(action, np.float64)
        observation, reward, _, info = self._env.step(action)
        return self._observe(observation), float(reward), False, False, info

    def render(self) -> np.ndarray:
        """The static camera's image uint8 [size, size, 3], as last observed."""
        if not self._images:
            raise WamError("render: the environment was made with cameras=False")
        if not self._ready:
            raise WamError("render: the environment has not been reset")
        return np.array(self._static, np.uint8)

    def close(self) -> None:
        """Release the environment; a second call does nothing."""
        env, self._env = self._env, None
        self._ready = False
        if env is not None:
            with quiet_package():
                env.close()
                # Its destructor closes again, which prints or raises; what it holds may print too.
                env.close = _nothing
                del env

    def _observe(self, observation: dict[str, Any]) -> ObservationDict:
        kept = {
            name: np.array(observation[name], np.float64) for name in ("robot_obs", "scene_obs")
        }
        for name in self._images:
            kept[name] = np.ascontiguousarray(observation["rgb_obs"][name], np.uint8)
        for name in self._depths:
            kept[name] = np.ascontiguousarray(observation["depth_obs"][name], np.float32)
        if self._images:
            self._static = observation["rgb_obs"]["rgb_static"]
        return kept


def _find(checkout: str | Path | None) -> Path:
    """The directory with ``conf/`` and ``data/``."""
    spec = importlib.util.find_spec("calvin_env")
    assert spec is not None and spec.submodule_search_locations
    installed = Path(spec.submodule_search_locations[0]).resolve().parent
    if not any((place / ".git").exists() for place in (installed, *installed.parents)):
        raise WamError(
            f"{installed}: no .git; calvin_env asks git for the state of the checkout that it is "
            "installed from: git clone https://github.com/mees/calvin_env, then pip install "
            "--no-deps -e ./calvin_env (and env.assets: that directory, or null)"
        )
    root = installed if checkout is None else expanded(checkout, "env.assets")
    for name in ("conf", "data"):
        if not (root / name).is_dir():
            raise WamError(
                f"{root / name}: not found; with env.backend calvin_env, env.assets must be the "
                "package's checkout (with conf/ and data/), or null if it is installed from there"
            )
    return root.resolve()


def _instantiate(checkout: Path, overrides: list[str], *, use_egl: bool) -> Any:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(checkout / "conf"), version_base="1.1"):
            config = hydra.compose(_CONFIG, overrides)
        # Not an override, whose grammar would read the path's quotes and commas.
        config.data_path = str(checkout / "data")
        return hydra.utils.instantiate(
            config.env, use_egl=use_egl, show_gui=False, use_vr=False, use_scene_info=True
        )
    except (HydraException, OmegaConfBaseException) as error:
        reason = _reason(error)
    # Not from it: its traceback would keep a half-made environment, whose destructor prints.
    raise WamError(f"env.backend: calvin_env in {checkout} does not start: {reason}")


def _reason(error: BaseException) -> str:
    """What began it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split())


def _nothing() -> None:
    pass
