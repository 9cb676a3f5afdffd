"""Fine-tuning in the simulator instead of the world model, as an upper bound (beyond the paper).

Episodes start from the first frames of the training demonstrations and, if they are annotated
windows, of the further starts; never from validation.
"""

from typing import Self

import numpy as np
import torch

from pipeline import console
from pipeline.artifacts.layout import Layout, store_path
from pipeline.evaluation.simulator import open_pool, simulator_for, warn_of_impossible
from pipeline.evaluation.worlds import checked
from pipeline.latents.demonstrations import load_demos
from pipeline.params import Profile
from pipeline.store.open import Store, open_store
from wam.config import FinetuneConfig
from wam.envs.episode import Episode
from wam.envs.filtered import FilteredPool
from wam.envs.settings import SimulatorConfig, require_packages
from wam.envs.simulated import SimulatedEnv
from wam.errors import WamError
from wam.proprio import ProprioNormalizer
from wam.world_model.model import WorldModel


class Simulator:
    """The simulator processes and the starts of a profile's tasks; a context manager."""

    def __init__(
        self,
        profile: Profile,
        layout: Layout,
        world_model: WorldModel,
        normalizer: ProprioNormalizer,
        device: torch.device,
    ) -> None:
        """Raises WamError without the simulator, the store or the demonstrations, and where every
        environment needs a process and there are fewer of these.
        """
        require_packages(
            profile.env.backend, "finetune.environment=simulator fine-tunes in the simulator"
        )
        demos, store = load_demos(layout.demos), open_store(store_path(layout.store, "training"))
        self.config = simulator_for(profile, layout.store, store.attrs)
        _check_workers(self.config, profile.env.workers, profile.finetune.envs)
        self.differs = checked(store.attrs, self.config, profile.env)
        self._starts = {}
        for task in profile.tasks:
            rows = [demo.start for demo in demos[task].training]
            if profile.extract.further_starts == "annotated":
                rows += demos[task].imagination_starts
            self._starts[task] = training_starts(task, store, rows, profile.env.scene)
        self._pool = open_pool(self.config, profile.env.workers)
        self.world_model = world_model
        self._filtered = {
            task: FilteredPool(
                self._pool,
                world_model,
                normalizer,
                profile.features.filtering,
                device,
                profile.evaluate.looks_of(task),
            )
            for task in profile.tasks
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def environment(
        self, task: str, config: FinetuneConfig, generator: torch.Generator
    ) -> SimulatedEnv:
        """The environments of one task, which end those of the task before."""
        filtered, starts = self._filtered[task], self._starts[task]
        return SimulatedEnv(filtered, starts, config.envs, config.max_decisions, generator)


def _check_workers(simulator: SimulatorConfig, workers: int, envs: int) -> None:
    if simulator.one_per_process and workers < envs:
        setting = "backend" if simulator.backend == "calvin_env" else "renderer"
        raise WamError(
            f"env.workers: {workers}, finetune.envs: {envs}; with env.{setting}: "
            f"{getattr(simulator, setting)} every environment is a process (some 200 MB), and all "
            "run at once: expected at least as many workers as environments"
        )


def training_starts(task: str, store: Store, rows: list[int], scene: str) -> list[Episode]:
    """The simulator states of the ``store``'s ``rows``, to do ``task`` from.

    Rows of another scene than the simulator's are left out. Raises WamError if no row remains.
    """
    scenes = [store.episode_scenes[at] for at in store.episode_of_rows(np.array(rows)).tolist()]
    kept = [row for row, own in zip(rows, scenes, strict=True) if own in (None, scene)]
    if not kept:
        raise WamError(
            f"{task}: no training start is in scene {scene}, which the simulator has "
            "(env.scene); fine-tune in the world model, or with data of that scene"
        )
    if len(kept) < len(rows):
        console.warn(
            f"{task}: {len(rows) - len(kept)} of {len(rows)} training starts are in "
            f"another scene than {scene} (env.scene) and are left out"
        )
    robot_obs, scene_obs = (store.read(name)[kept] for name in ("robot_obs", "scene_obs"))
    frame_ids = store.frame_ids[kept].tolist()
    warn_of_impossible(task, scene_obs, frame_ids, "training starts", "used")
    return [
        Episode(task, np.asarray(robot, np.float64), np.asarray(scene, np.float64))
        for robot, scene in zip(robot_obs, scene_obs, strict=True)
    ]
