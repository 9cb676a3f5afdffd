"""Makes environments; their packages are imported only when one is made."""

from typing import TYPE_CHECKING

from wam.envs.settings import SimulatorConfig

if TYPE_CHECKING:
    from wam.envs.calvin_env import CalvinEnv
    from wam.envs.simulator.play_table import PlayTableEnv


def make_env(config: SimulatorConfig, *, cameras: bool = True) -> "PlayTableEnv | CalvinEnv":
    """A new environment; without ``cameras`` it makes no images.

    Raises WamError for a missing package or asset.
    """
    if config.backend == "calvin_env":
        from wam.envs.calvin_env import CalvinEnv

        return CalvinEnv(
            config.scene,
            checkout=config.assets,
            renderer=config.renderer,
            static_size=config.static_size,
            gripper_size=config.gripper_size,
            cameras=cameras,
            depth=config.depth,
        )
    from wam.envs.simulator.play_table import PlayTableEnv

    return PlayTableEnv(
        config.scene,
        assets=config.assets,
        renderer=config.renderer,
        robot_model=config.robot_model,
        static_size=config.static_size,
        gripper_size=config.gripper_size,
        cameras=cameras,
        depth=config.depth,
    )
