"""Which scene the frames are from, and who says otherwise.

What the states can tell is limited but certain: a block cannot be inside the furniture, nor the
sliding door beyond its end. Two scenes that differ only in what nobody touched stay possible.

Source: docs/calvin.md 1.1, 1.8, 2.8 and 3.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline.calvin import metadata
from pipeline.calvin.conformance.survey import SplitSurvey
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.finding import Finding
from pipeline.calvin.scenes import scenes_by_letter
from pipeline.untrusted.text import shown
from wam.envs.scene_files.geometry import SCENES, SceneGeometry, slope_y
from wam.tasks import SLIDER

Ranges = dict[str, tuple[int, int]]
"""First and last frame id of each scene, both inclusive."""

_MARGIN_M = 0.005
_SLIDER_MARGIN_M = 0.01
_CONTRADICTED = 0.005
"""Share of impossible states from which on a scene is ruled out; Bullet lets bodies overlap now and
then."""


class Release(NamedTuple):
    """A training split as CALVIN's authors published it."""

    name: str
    num_frames: int
    """In episodes."""
    ends: tuple[int, int]
    """First and last frame id in episodes."""
    scenes: Ranges


RELEASES = (
    Release("task_D_D", 512_077, (53_819, 611_098), {"D": (0, 611_098)}),
    Release(
        "task_ABC_D",
        1_795_045,
        (0, 1_795_044),
        {"B": (0, 598_909), "C": (598_910, 1_191_338), "A": (1_191_339, 1_795_044)},
    ),
    Release(
        "task_ABCD_D",
        2_307_122,
        (53_819, 2_406_143),
        {"D": (0, 611_098)}
        | {"B": (611_099, 1_210_008), "C": (1_210_009, 1_802_437), "A": (1_802_438, 2_406_143)},
    ),
    Release("calvin_debug_dataset", 2_771, (358_482, 361_252), {"D": (358_482, 361_252)}),
)


def release_of(split: SplitSurvey) -> Release | None:
    """The published training split that has the same episodes' ids."""
    if split.name != "training" or not len(split.episodes):
        return None
    num_frames = int((split.episodes[:, 1] - split.episodes[:, 0] + 1).sum())
    found = (num_frames, (int(split.episodes[0, 0]), int(split.episodes[-1, 1])))
    return next((one for one in RELEASES if (one.num_frames, one.ends) == found), None)


def declared_scenes(split: SplitSurvey) -> Ranges:
    """Scenes by letter, from ``scene_info.npy``, else from the recording configuration."""
    if split.scene_info is None:
        return _recorded_scene(split)
    return scenes_by_letter(split.scene_info)


def scene_ranges(split: SplitSurvey) -> Iterator[Finding]:
    """Names in ``scene_info.npy``, and whether its ranges give every episode one scene."""
    if split.scene_info is None:
        return
    file = split.file(metadata.SCENE_INFO)
    foreign = sorted(set(split.scene_info) - {f"calvin_scene_{letter}" for letter in SCENES})
    if foreign:
        yield finding("scene-info-names", file, f"scene {shown(foreign[0])}", len(foreign))
    ranges = np.array(list(split.scene_info.values()), np.int64).reshape(-1, 2)
    inside = (ranges[:, 0] <= split.episodes[:, :1]) & (split.episodes[:, 1:] <= ranges[:, 1])
    lost = np.flatnonzero(inside.sum(axis=1) != 1)
    if len(lost):
        found = f"{inside[lost[0]].sum()} scenes have episode {split.episodes[lost[0]].tolist()}"
        yield finding("scene-info-ranges", file, found, len(lost))


def scene_info(split: SplitSurvey) -> Iterator[Finding]:
    """``scene_info.npy`` against the release, the sampled states, the recording configuration."""
    if split.scene_info is None:
        return
    declared = declared_scenes(split)
    contradiction = (
        _release_contradiction(split, declared)
        or _state_contradiction(split, declared)
        or _recording_contradiction(split, declared)
    )
    if contradiction:
        found, expected = contradiction
        yield finding("scene-info", split.file(metadata.SCENE_INFO), found, expected=expected)


def recording_scene(split: SplitSurvey) -> Iterator[Finding]:
    """The scene of the recording configuration against the sampled states."""
    if len(declared_scenes(split)) > 1:
        return  # one configuration, several recordings
    contradiction = _state_contradiction(split, _recorded_scene(split))
    if contradiction:
        found, expected = contradiction
        yield finding("recording-scene", split.file(metadata.RECORDING), found, expected=expected)


def _recorded_scene(split: SplitSurvey) -> Ranges:
    if split.recording and split.recording.scene and len(split.ids):
        return {split.recording.scene: (int(split.ids[0]), int(split.ids[-1]))}
    return {}


def _release_contradiction(split: SplitSurvey, declared: Ranges) -> tuple[str, str] | None:
    """Found and expected where a published split has other scenes than declared."""
    release = release_of(split)
    if release is None:
        return None
    for letter, (first, last) in release.scenes.items():
        inside = (split.episodes[:, 0] >= first) & (split.episodes[:, 1] <= last)
        low, high = declared.get(letter, (0, -1))
        if not ((split.episodes >= low) & (split.episodes <= high))[inside].all():
            return (
                f"frames {first} to {last} are not in scene {letter}",
                f"scene {letter} there, as in the current {release.name}",
            )
    return None


def _recording_contradiction(split: SplitSurvey, declared: Ranges) -> tuple[str, str] | None:
    """Found and expected where a single scene is not that of a credible configuration."""
    recorded = _recorded_scene(split)
    if len(declared) != 1 or not recorded or declared.keys() == recorded.keys():
        return None
    if _state_contradiction(split, recorded):
        return None
    (scene,), (named,) = declared, recorded
    return f"scene {scene}", f"scene {named}, which {metadata.RECORDING} names"


def _state_contradiction(split: SplitSurvey, declared: Ranges) -> tuple[str, str] | None:
    """Found and expected where many sampled states cannot occur in their declared scene."""
    ids = split.sample.ids
    for letter, (first, last) in declared.items():
        scene_obs = split.sample.vectors["scene_obs"][(ids >= first) & (ids <= last)]
        if contradiction := contradicted(scene_obs, letter):
            return contradiction
    return None


def contradicted(
    scene_obs: np.ndarray, letter: str, share: float = _CONTRADICTED
) -> tuple[str, str] | None:
    """Found and expected where more than a ``share`` of the states [N, 24] cannot occur in scene
    ``letter``."""
    limit = share * len(scene_obs)
    wrong = {name: int(impossible(scene_obs, scene).sum()) for name, scene in SCENES.items()}
    if wrong[letter] <= limit:
        return None
    possible = [name for name, count in wrong.items() if count <= limit]
    return (
        f"scene {letter}, in which {wrong[letter]:,} of {len(scene_obs):,} sampled states "
        "cannot occur (a block inside the furniture, or the door beyond its end)",
        f"scene {' or '.join(possible) or 'A to D'}, which agrees with the states",
    )


def impossible(scene_obs: np.ndarray, scene: SceneGeometry) -> np.ndarray:
    """Whether each state [N, 24] puts a block's centre into solid wood, or the door too far."""
    x, y, z = np.moveaxis(scene_obs[:, 6:].reshape(-1, 3, 6)[..., :3], -1, 0)
    beside_shelf = _outside(x, scene.opening) & (np.abs(x) < 0.43)
    in_cabinet = beside_shelf & (z > 0.45) & (z < 0.62) & (y > slope_y(z) + 0.01) & (y < 0.17)
    beside_drawer = _outside(x, scene.bay) & (np.abs(x) < 0.41)
    in_body = beside_drawer & (z > 0.325) & (z < 0.395) & (np.abs(y) < 0.15)
    too_far = scene_obs[:, SLIDER] > scene.slide_limit + _SLIDER_MARGIN_M
    return (in_cabinet | in_body).any(axis=1) | too_far


def _outside(x: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    return (x < interval[0] - _MARGIN_M) | (x > interval[1] + _MARGIN_M)
