"""Nobody is judged in another world than the data's without knowing it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pipeline import console
from pipeline.evaluation.compatibility import mismatch
from pipeline.params.profile import Env
from wam.envs.settings import Backend, SimulatorConfig, World
from wam.errors import WamError

WORLDS: tuple[World, ...] = get_args(World)
WORLD_NAMES: dict[World, str] = {
    "embedded": "the embedded scene",
    "assets": "CALVIN's scene files",
    "official": "CALVIN's own simulator",
}


def checked(data: Mapping[str, Any], simulator: SimulatorConfig, env: Env) -> str | None:
    """How the simulator's world differs from that of the ``data``, which is said; None: not.

    A renderer that is not resolved is not compared. Raises WamError for a difference that
    ``env.differences`` does not allow.
    """
    used = {**simulator.description(), "scene": simulator.scene}
    if simulator.renderer == "auto":
        del used["renderer"]
    difference = mismatch(data, used)
    if difference is None:
        return None
    if env.differences == "refuse":
        raise WamError(
            f"env: {difference}: policies would be judged in another world than they learned in. "
            "Set env.assets, renderer and scene to what the data was made with, or "
            "env.differences to allow: the difference then stands beside every number"
        )
    console.warn(f"{difference}: policies see other images than they learned from")
    return difference


def moved(env: Env, world: World, assets: Path | None) -> Env:
    """The settings for an evaluation in ``world``, whatever the data was made with.

    ``assets``: CALVIN's scene files, or the official package's checkout; by default those of
    ``env``. Raises WamError where scene files are needed and none are named.
    """
    backend: Backend = "calvin_env" if world == "official" else "embedded"
    path = str(assets) if assets is not None else env.assets if backend == env.backend else None
    if world == "assets" and path is None:
        raise WamError("--in assets: needs --assets DIR (or env.assets): CALVIN's scene files")
    if world == "embedded":
        if assets is not None:
            raise WamError("--assets: the embedded scene has none")
        path = None
    return replace(env, backend=backend, assets=path, differences="allow")
