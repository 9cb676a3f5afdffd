"""One episode of scripted play, recorded in CALVIN's format."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import manifests
from pipeline.calvin import actions, on_disk
from pipeline.play.windows import cut_windows
from wam.envs.factory import make_env
from wam.envs.settings import SimulatorConfig
from wam.errors import WamError


@dataclass(frozen=True, kw_only=True)
class EpisodeJob:
    """What a worker needs to record one episode."""

    directory: Path
    """Directory of the split."""
    markers: Path
    """Directory for the markers of its complete episodes."""
    simulator: SimulatorConfig
    noise: float
    fumbles: float
    partial_moves: float
    miss_again: float
    commanded: bool
    """``rel_actions`` hold what the arm was told, not how it moved."""
    seed: tuple[int, ...]
    first_id: int
    frames: int

    @property
    def marker(self) -> Path:
        """Written last: the episode is complete. Holds its windows and the frames' digest."""
        return self.markers / f"{self.first_id:07d}.json"

    @property
    def is_done(self) -> bool:
        """Whether an earlier run has recorded the episode."""
        try:
            return {"windows", "digest"} <= manifests.read_json(self.marker, dict).keys()
        except WamError:
            return False


def record_episode(job: EpisodeJob, frame_done: Callable[[], None]) -> None:
    """Play and write one episode, a pure function of the job; ``frame_done`` after each frame."""
    # A fresh environment: with CALVIN's assets, no other repeats itself to the last bit.
    with closing(make_env(job.simulator)) as env:
        _record(job, env, frame_done)


def _record(job: EpisodeJob, env: Any, frame_done: Callable[[], None]) -> None:
    from wam.envs.play.session import Play

    rng = np.random.default_rng(job.seed)
    play = Play(env, rng, job.noise, job.fumbles, job.partial_moves, job.miss_again)
    content = hashlib.blake2b(digest_size=16)
    scene_obs: list[np.ndarray] = []
    previous: dict[str, Any] | None = None
    # One frame more than is kept: the last one only supplies the action of the frame before.
    for index, observation in enumerate(play.frames(job.frames + 1)):
        if previous is not None:
            action = actions.absolute(observation["robot_obs"])
            rel_action = actions.relative(action, previous["robot_obs"])
            if job.commanded:
                rel_action[:6] = play.action[:6].clip(-1, 1)
            frame = {**previous, "actions": action, "rel_actions": rel_action}
            on_disk.write_frame(job.directory, job.first_id + index - 1, frame)
            for name in sorted(frame):
                content.update(frame[name].tobytes())
            scene_obs.append(previous["scene_obs"])
            frame_done()
        previous = observation
    executions = [execution for execution in play.executions if execution.stop <= job.frames]
    windows = cut_windows(executions, np.stack(scene_obs), rng)
    manifests.write_json(
        job.marker, {"windows": [asdict(w) for w in windows], "digest": content.hexdigest()}
    )
