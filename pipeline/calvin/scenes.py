"""Which scene an episode was recorded in, and in which order its state lists the blocks.

The three blocks of ``scene_obs`` come in the order of the scene's own configuration: red, blue,
pink in B and D, but pink, blue, red in A and blue, red, pink in C (docs/calvin.md 1.3). The store
keeps them as they were recorded: a state is then still what a simulator of its scene is reset with,
and every row still equals its frame. Who learns from several scenes at once brings the blocks into
one order with :func:`canonical_blocks`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.calvin import metadata
from pipeline.calvin.fields import SCENE_OBS_SIZE
from wam.envs.scene_files.geometry import scene_geometry
from wam.errors import WamError

CANONICAL_BLOCKS = ("red", "blue", "pink")

_NAME = re.compile(r"calvin_scene_([A-D])")
_FIRST_BLOCK = 6
_BLOCK_SIZE = 6


def episode_scenes(directory: Path, episodes: Sequence[tuple[int, int]]) -> list[str | None]:
    """The scene of every episode (frame ids [start, stop)) of one split; None where it is unknown.

    ``scene_info.npy`` counts where it names several scenes, the recording configuration where it
    names one: of D's training split, early releases of the former say A (docs/calvin.md 1.8). Only
    the split's own files count: ABC numbers its validation frames like other frames of training.
    """
    named = scenes_by_letter(metadata.read_scene_info(directory))
    if len(named) <= 1:
        scene = metadata.read_recording_config(directory).scene or next(iter(named), None)
        return [scene] * len(episodes)
    return [_scene_of(named, start, stop) for start, stop in episodes]


def scenes_by_letter(scene_info: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """First and last frame id by letter; names other than ``calvin_scene_A`` to D are left out."""
    matched = ((_NAME.fullmatch(name), ids) for name, ids in scene_info.items())
    return {match[1]: ids for match, ids in matched if match}


def block_order(scene: str) -> list[str]:
    """Colours of the blocks in ``scene_obs`` of ``scene``."""
    return [colour for colour, _ in scene_geometry(scene).blocks]


def canonical_blocks(scene_obs: np.ndarray, scene: str) -> np.ndarray:
    """``scene_obs`` [..., 24] of ``scene`` with its blocks in the order red, blue, pink.

    Position and Euler angles of a block stay together; all else stays where it is. Raises WamError
    for an unknown scene or another number of elements.
    """
    if scene_obs.shape[-1] != SCENE_OBS_SIZE:
        raise WamError(f"scene_obs: shape {scene_obs.shape}; expected [..., {SCENE_OBS_SIZE}]")
    order = block_order(scene)
    places = [
        _FIRST_BLOCK + _BLOCK_SIZE * order.index(colour) + element
        for colour in CANONICAL_BLOCKS
        for element in range(_BLOCK_SIZE)
    ]
    return scene_obs[..., [*range(_FIRST_BLOCK), *places]]


def _scene_of(named: dict[str, tuple[int, int]], start: int, stop: int) -> str | None:
    """The only scene whose ids (first and last) hold all frames [start, stop)."""
    holding = [name for name, (first, last) in named.items() if first <= start and stop - 1 <= last]
    return holding[0] if len(holding) == 1 else None
