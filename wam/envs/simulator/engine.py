"""PyBullet, imported in one place: without its banner, and with advice where it is missing."""

from wam.envs.simulator.quiet import quiet_import
from wam.errors import WamError

try:
    with quiet_import():
        import pybullet
except ModuleNotFoundError:
    raise WamError('the simulator needs pybullet; run: pip install "wam[sim]"') from None

__all__ = ["pybullet"]
