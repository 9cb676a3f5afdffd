"""The numbers in the frames: ranges, lights, gripper commands, actions.

Source: docs/calvin.md 1.3, 1.4 and 2.2.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.calvin import actions
from pipeline.calvin.conformance.survey import SplitSurvey
from pipeline.calvin.fields import VECTORS, Bounds
from pipeline.calvin.finding import Finding
from wam.tasks import LED, LIGHTBULB

GRIPPER_PLACES = {
    name: field.gripper for name, field in VECTORS.items() if field.gripper is not None
}
"""Place of the gripper command in each vector that has one."""
LIGHTS = [LIGHTBULB, LED]

_ARM = {7: 2.9671, 8: 1.8326, 9: 2.9671, 11: 2.9671, 13: 2.9671}
USUAL: dict[str, dict[int, tuple[float, float]]] = {
    "scene_obs": {
        0: (-0.0024, 0.3067),
        1: (-0.0020, 0.2214),
        2: (-0.0009, 0.0337),
        3: (-0.0048, 0.0918),
    },
    "robot_obs": {
        6: (-0.0123, 0.0867),
        **{place: (-limit, limit) for place, limit in _ARM.items()},
        10: (-3.1416, 0.0),
        12: (-0.0873, 3.8223),
    },
}
"""Lowest and highest value in all of CALVIN's data (docs/calvin.md 1.3), the limits of the arm's
joints, and for the fingers what recordings of CALVIN's simulator hold."""
_USUAL_MARGIN = 0.01

_OTHERWISE_CHECKED: dict[str, list[int] | slice] = {
    "actions": [GRIPPER_PLACES["actions"]],
    "rel_actions": slice(None),
    "robot_obs": [GRIPPER_PLACES["robot_obs"]],
    "scene_obs": LIGHTS,
}
"""Elements with a check of their own."""

_LIGHT_DECIMALS = 3
"""To which a reset rounds."""
_POSE_TOLERANCE = 1e-4
"""Metres and radians between an action and the pose that it leads to; float32 copies need 1e-6."""
_UNIT_TOLERANCE = 1e-3
"""In units of ``rel_actions``."""
_FEW = 0.01
"""Up to this share of wrong actions is noise in the labels; above it they mean something else."""


def values(split: SplitSurvey) -> Iterator[Finding]:
    """Numbers that are not finite, impossible, or outside what CALVIN's data hold."""
    for name, field in VECTORS.items():
        value = split.sample.vectors[name]
        finite = np.isfinite(value)
        yield from _elements("non-finite", split, name, ~finite)
        outside = finite & ~field.plausible(value)
        outside[:, _OTHERWISE_CHECKED[name]] = False
        yield from _elements("out-of-range", split, name, outside, field.bounds)
        known = USUAL.get(name, {})
        usual = tuple(known.get(place, (-np.inf, np.inf)) for place in range(field.length))
        low, high = np.array(usual).T
        unusual = (value < low - _USUAL_MARGIN) | (value > high + _USUAL_MARGIN)
        yield from _elements("unusual-values", split, name, unusual & finite & ~outside, usual)


def encodings(split: SplitSurvey) -> Iterator[Finding]:
    """Lights other than 0 and 1, gripper commands other than -1 and +1, motions beyond one unit."""
    vectors = split.sample.vectors
    state = vectors["scene_obs"]
    bad = _only(LIGHTS, np.isfinite(state) & ~np.isin(state, (0.0, 1.0)))
    near = bad & np.isin(state.round(_LIGHT_DECIMALS), (0.0, 1.0))
    yield from _elements("light-rounding", split, "scene_obs", near)
    yield from _elements("light-state", split, "scene_obs", bad & ~near)
    for name, place in GRIPPER_PLACES.items():
        bad = _only([place], np.isfinite(vectors[name]) & (np.abs(vectors[name]) != 1))
        yield from _elements("gripper-command", split, name, bad)
    motion = vectors["rel_actions"]
    bad = _only([*range(6)], np.isfinite(motion) & ~VECTORS["rel_actions"].plausible(motion))
    yield from _elements("rel-action-range", split, "rel_actions", bad)


def rel_actions(split: SplitSurvey) -> Iterator[Finding]:
    """Relative actions against what the absolute ones and the states give."""
    vectors = split.sample.vectors
    sound = _sound(split, "actions", "rel_actions", "robot_obs")
    with np.errstate(invalid="ignore"):
        gap = actions.relative(vectors["actions"], vectors["robot_obs"]) - vectors["rel_actions"]
    yield from _gaps("rel-actions", split, "rel_actions", np.abs(gap) > _UNIT_TOLERANCE, sound)


def next_poses(split: SplitSurvey) -> Iterator[Finding]:
    """Absolute actions against the state of the next frame of the same episode."""
    ids, vectors = split.sample.ids, split.sample.vectors
    episodes = split.episode_of(ids)
    paired = _sound(split, "actions") & np.roll(_sound(split, "robot_obs"), -1)
    paired[:-1] &= (np.diff(ids) == 1) & (np.diff(episodes) == 0) & (episodes[1:] >= 0)
    paired[-1:] = False
    reached = np.roll(vectors["robot_obs"], -1, axis=0)
    with np.errstate(invalid="ignore"):
        gap = vectors["actions"] - actions.absolute(reached)
        gap[:, 3:6] = actions.wrapped(gap[:, 3:6])
    yield from _gaps("next-pose", split, "actions", np.abs(gap) > _POSE_TOLERANCE, paired)


def _only(places: list[int], bad: np.ndarray) -> np.ndarray:
    """``bad`` [N, L] in ``places``, False elsewhere."""
    return bad & np.isin(np.arange(bad.shape[1]), places)


def _sound(split: SplitSurvey, *names: str) -> np.ndarray:
    """bool [N]: whether no other check complains about these vectors."""
    sound = np.ones(len(split.sample.ids), bool)
    for name in names:
        value = split.sample.vectors[name]
        sound &= VECTORS[name].plausible(value).all(axis=1)
        sound &= np.abs(value[:, GRIPPER_PLACES[name]]) == 1
    return sound


def _gaps(
    check: str, split: SplitSurvey, name: str, bad: np.ndarray, checked: np.ndarray
) -> Iterator[Finding]:
    """One finding of the ``bad`` [N, L] elements in the rows that are ``checked`` [N]."""
    bad = bad & checked[:, None]
    severity = "error" if bad.any(axis=1).sum() > _FEW * checked.sum() else "warning"
    yield from _elements(check, split, name, bad, severity=severity)


def _elements(
    check: str, split: SplitSurvey, name: str, bad: np.ndarray, bounds: Bounds = (), **gaps: Any
) -> Iterator[Finding]:
    """One finding of the frames in which elements of vector ``name`` are ``bad``; bool [N, L].

    ``bounds`` are the lowest and the highest value that are expected of each element.
    """
    rows = np.flatnonzero(bad.any(axis=1))
    if len(rows):
        place = int(bad[rows[0]].argmax())
        if bounds:
            low, high = bounds[place]
            gaps |= {"low": low, "high": high, "vector": name, "meaning": VECTORS[name].meaning}
        found = f"{name}[{place}] is {split.sample.vectors[name][rows[0], place]:.6g}"
        yield split.of_frames(check, split.sample.ids[rows], found, **gaps)
