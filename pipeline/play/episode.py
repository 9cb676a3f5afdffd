"""One episode of scripted play, recorded in CALVIN's format."""

import hashlib
import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import manifests
from pipeline.calvin import on_disk
from pipeline.play.windows import cut_windows
from wam.envs.factory import make_env
from wam.envs.scene_files.geometry import POSITION_STEP_M, ROTATION_STEP_RAD
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
    from wam.envs.play.session import Play

    rng = np.random.default_rng(job.seed)
    content = hashlib.blake2b(digest_size=16)
    scene_obs: list[np.ndarray] = []
    # A fresh environment: with CALVIN's assets, no other repeats itself to the last bit.
    env: Any = make_env(job.simulator)
    with closing(env):
        play = Play(env, rng, job.noise)
        # One frame more than is kept: the last one only supplies the action of the frame before.
        pairs = itertools.pairwise(play.frames(job.frames + 1))
        for frame_id, (seen, following) in enumerate(pairs, start=job.first_id):
            actions, rel_actions = hindsight_actions(seen["robot_obs"], following["robot_obs"])
            frame = {**seen, "actions": actions, "rel_actions": rel_actions}
            on_disk.write_frame(job.directory, frame_id, frame)
            for name in sorted(frame):
                content.update(frame[name].tobytes())
            scene_obs.append(seen["scene_obs"])
            frame_done()
    executions = [execution for execution in play.executions if execution.stop <= job.frames]
    windows = cut_windows(executions, np.stack(scene_obs), rng)
    manifests.write_json(
        job.marker, {"windows": [asdict(w) for w in windows], "digest": content.hexdigest()}
    )


def hindsight_actions(
    robot_obs: np.ndarray, next_robot_obs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``actions`` and ``rel_actions`` float64 [7] that lead from one state to the next.

    docs/calvin.md 1.4: the next frame's TCP pose and gripper command; relative to this frame in
    units of 2 cm and 0.05 rad, the Euler difference wrapped, both clipped to [-1, 1].
    """
    actions = np.concatenate([next_robot_obs[:6], next_robot_obs[14:15]])
    rel_actions = actions.copy()
    rel_actions[:3] = (actions[:3] - robot_obs[:3]) / POSITION_STEP_M
    turn = (actions[3:6] - robot_obs[3:6] + np.pi) % (2 * np.pi) - np.pi
    rel_actions[3:6] = turn / ROTATION_STEP_RAD
    rel_actions[:6] = rel_actions[:6].clip(-1.0, 1.0)
    return actions, rel_actions
