"""Short roll-out films as animated WebP: both cameras side by side, the outcome written in."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline import console
from pipeline.calvin.fields import CAMERAS
from pipeline.pictures import animation
from wam.envs.episode import Episode
from wam.envs.pool import EnvPool

_EVERY = 2
"""Of the 30 frames of a second every second one is kept; play-back is in real time."""
_FRAME_MS = 1000 * _EVERY // 30

_SUCCESS, _FAILURE = (70, 190, 120), (230, 110, 95)


class Take(NamedTuple):
    """A roll-out to film."""

    path: Path
    title: str
    episode: Episode
    actions: np.ndarray
    """float64 [T, 7], as executed"""
    success: bool
    """How the roll-out ended"""


def film(pool: EnvPool, takes: Sequence[Take]) -> Iterator[Take]:
    """Repeat the roll-outs with the images of ``pool`` and write them; yields what is done."""
    for rows in pool.groups(len(takes)):
        yield from _film_at_once(pool, takes[rows])


def _film_at_once(pool: EnvPool, takes: Sequence[Take]) -> Iterator[Take]:
    longest = max(len(take.actions) for take in takes)
    # Repeating the last action fills up: an episode that succeeds stops by itself.
    actions = np.stack(
        [np.pad(take.actions, ((0, longest - len(take.actions)), (0, 0)), "edge") for take in takes]
    )
    first = pool.start([take.episode for take in takes])
    result = pool.step(actions)
    later = result.observations
    for row, take in enumerate(takes):
        steps = min(int(result.steps[row]), len(take.actions))
        if (steps, bool(result.success[row])) != (len(take.actions), take.success):
            console.warn(f"{take.path.name}: the repeated roll-out ended differently; no clip")
            continue
        static, gripper = (
            np.concatenate([getattr(first, name)[row][None], getattr(later, name)[row, :steps]])
            for name in CAMERAS
        )
        write_clip(take.path, static, gripper, take.title, take.success)
        yield take


def write_clip(
    path: Path,
    rgb_static: np.ndarray,
    rgb_gripper: np.ndarray,
    title: str,
    success: bool,
) -> None:
    """Write frames uint8 [T, height, width, 3] of both cameras to ``path`` (.webp), atomically."""
    last = len(rgb_static) - 1
    kept = [*range(0, last, _EVERY), last]
    frames = [
        _frame(rgb_static[t], rgb_gripper[t], title, t, success if t == last else None)
        for t in kept
    ]
    animation.write(path, frames, _FRAME_MS)


def _frame(
    static: np.ndarray, gripper: np.ndarray, title: str, step: int, outcome: bool | None
) -> Image.Image:
    images = np.hstack([animation.enlarge(static), animation.enlarge(gripper)])
    if outcome is None:
        return animation.captioned(images, title, f"step {step}")
    note = f"success at step {step}" if outcome else f"no success in {step} steps"
    return animation.captioned(images, title, note, _SUCCESS if outcome else _FAILURE)
