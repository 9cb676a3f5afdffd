"""Tries EGL, in a process of its own: a driver that does not work may end or block it.

``python -m wam.envs.simulator.egl_probe`` renders both images of the play table and says so if they
show anything; see :mod:`wam.envs.simulator.renderer`, which runs it.
"""

import sys

import numpy as np

from wam.envs.simulator.engine import pybullet
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.renderer import PROOF, load_egl
from wam.envs.simulator.spaces import IMAGES
from wam.errors import WamError

_SIZE = 64
_FEW_COLOURS = 32
"""The table has hundreds of colours; an image that failed has one, or a few."""


def main() -> None:
    """Print the proof, or exit with the reason why EGL makes no images."""
    # In a client of its own first: the environment would drop what the driver says at its end.
    client = pybullet.connect(pybullet.DIRECT)
    load_egl(client)
    pybullet.disconnect(client)
    env = PlayTableEnv(renderer="egl", static_size=_SIZE, gripper_size=_SIZE)
    observation, _ = env.reset(seed=0)
    env.close()
    for name in IMAGES:
        if is_blank(observation[name]):
            sys.exit(f"{name} is blank")
    sys.stdout.write(f"{PROOF}\n")


def is_blank(rgb: np.ndarray) -> bool:
    """Whether an image uint8 [height, width, 3] shows nothing, like a sky without a scene."""
    return len(np.unique(rgb.reshape(-1, 3), axis=0)) < _FEW_COLOURS


if __name__ == "__main__":
    try:
        main()
    except WamError as error:
        sys.exit(str(error))
