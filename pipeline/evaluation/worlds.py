"""Nobody is judged in another world than the data's without knowing it."""

from collections.abc import Mapping
from typing import Any

from pipeline import console
from pipeline.evaluation.compatibility import mismatch
from pipeline.params.profile import Env
from wam.envs.settings import SimulatorConfig
from wam.errors import WamError


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
