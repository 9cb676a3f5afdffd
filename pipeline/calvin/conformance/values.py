"""The numbers in the frames: ranges, lights, gripper commands, actions.

Source: CALVIN contract 1.3, 1.4 and 2.2.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.calvin.conformance.survey import Split
from pipeline.calvin.fields import TOLERANCE, VECTORS
from pipeline.calvin.finding import Finding, Severity
from wam.envs.scene_files.geometry import POSITION_STEP_M, ROTATION_STEP_RAD
from wam.tasks import LED, LIGHTBULB

GRIPPER = 6
"""Place of the gripper command in ``actions`` and ``rel_actions``."""
COMMAND = 14
"""Place of the last gripper command in ``robot_obs``."""
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
"""Lowest and highest value in all of CALVIN's data (contract 1.3), the limits of the arm's joints,
and for the fingers what recordings of CALVIN's simulator hold."""
_USUAL_MARGIN = 0.01

_LIGHT_DECIMALS = 3
"""To which a reset rounds."""
_POSE_TOLERANCE = 1e-4
"""Metres and radians between an action and the pose that it leads to; float32 copies need 1e-6."""
_UNIT_TOLERANCE = 1e-3
"""In units of ``rel_actions``."""
_FEW = 0.01
"""Up to this share of wrong actions is noise in the labels; above it they mean something else."""


def values(split: Split) -> Iterator[Finding]:
    """Numbers that are not finite, impossible, or outside what CALVIN's data hold."""
    for name, field in VECTORS.items():
        value = split.sample.vectors[name]
        finite = np.isfinite(value)
        yield from _of_elements(
            split,
            name,
            ~finite,
            check="non-finite",
            severity="error",
            expected="finite numbers",
            advice="The stage 'convert' refuses it",
        )
        low, high = np.array(field.bounds).T
        outside = finite & ((value < low - TOLERANCE) | (value > high + TOLERANCE))
        outside[:, _OTHERWISE_CHECKED[name]] = False
        yield from _of_elements(
            split,
            name,
            outside,
            check="out-of-range",
            severity="error",
            expected=[f"{lowest:g} to {highest:g}" for lowest, highest in field.bounds],
            advice=f"The stage 'convert' refuses it. {name}: {field.meaning}",
        )
        usual = [USUAL.get(name, {}).get(at, (-np.inf, np.inf)) for at in range(field.length)]
        low, high = np.array(usual).T
        unusual = (value < low - _USUAL_MARGIN) | (value > high + _USUAL_MARGIN)
        yield from _of_elements(
            split,
            name,
            unusual & finite & ~outside,
            check="unusual-values",
            severity="warning",
            expected=[f"{lowest:g} to {highest:g}" for lowest, highest in usual],
            advice=f"No CALVIN frame goes there; look at these frames. {name}: {field.meaning}",
        )


_OTHERWISE_CHECKED: dict[str, list[int] | slice] = {
    "actions": [GRIPPER],
    "rel_actions": slice(None),
    "robot_obs": [COMMAND],
    "scene_obs": LIGHTS,
}
"""Elements with a check of their own."""


def lights(split: Split) -> Iterator[Finding]:
    """Light states that are not exactly 0 or 1."""
    state = split.sample.vectors["scene_obs"]
    bad = np.zeros(state.shape, bool)
    bad[:, LIGHTS] = np.isfinite(state[:, LIGHTS]) & ~np.isin(state[:, LIGHTS], (0.0, 1.0))
    near = bad & np.isin(state.round(_LIGHT_DECIMALS), (0.0, 1.0))
    yield from _of_elements(
        split,
        "scene_obs",
        near,
        check="light-rounding",
        severity="warning",
        expected="exactly 0 (off) or 1 (on)",
        advice="An error of some conversion: rounded here, but CALVIN's own simulator refuses it",
    )
    yield from _of_elements(
        split,
        "scene_obs",
        bad & ~near,
        check="light-state",
        severity="error",
        expected="0 (off) or 1 (on)",
        advice="Not a light's state: is scene_obs normalised, or in another order?",
    )


def gripper_commands(split: Split) -> Iterator[Finding]:
    """Gripper commands other than -1 and +1."""
    for name, place in (("actions", GRIPPER), ("rel_actions", GRIPPER), ("robot_obs", COMMAND)):
        value = split.sample.vectors[name]
        bad = np.zeros(value.shape, bool)
        bad[:, place] = np.isfinite(value[:, place]) & (np.abs(value[:, place]) != 1)
        yield from _of_elements(
            split,
            name,
            bad,
            check="gripper-command",
            severity="error",
            expected="-1 (close) or +1 (open)",
            advice="The simulator knows no other command",
        )


def rel_action_range(split: Split) -> Iterator[Finding]:
    """Relative motions beyond one unit."""
    value = split.sample.vectors["rel_actions"]
    bad = np.isfinite(value) & (np.abs(value) > 1 + TOLERANCE)
    bad[:, GRIPPER] = False
    yield from _of_elements(
        split,
        "rel_actions",
        bad,
        check="rel-action-range",
        severity="error",
        expected="-1 to 1",
        advice="Units are 2 cm and 0.05 rad, clipped; the stage 'convert' refuses it",
    )


def relative(actions: np.ndarray, robot_obs: np.ndarray) -> np.ndarray:
    """``rel_actions`` [N, 7] of ``actions`` [N, 7] and ``robot_obs`` [N, 15] (contract 1.4)."""
    position = (actions[:, :3] - robot_obs[:, :3]) / POSITION_STEP_M
    turn = (actions[:, 3:6] - robot_obs[:, 3:6] + np.pi) % (2 * np.pi) - np.pi
    motion = np.concatenate([position, turn / ROTATION_STEP_RAD], axis=1).clip(-1, 1)
    return np.concatenate([motion, actions[:, GRIPPER:]], axis=1)


def rel_actions(split: Split) -> Iterator[Finding]:
    """Relative actions against what the absolute ones and the states give."""
    vectors = split.sample.vectors
    sound = _sound(split, "actions", "rel_actions", "robot_obs")
    with np.errstate(invalid="ignore"):
        wanted = relative(vectors["actions"], vectors["robot_obs"])
        gap = np.abs(wanted - vectors["rel_actions"])
    bad = np.where(sound[:, None], gap > _UNIT_TOLERANCE, False)
    yield from _of_elements(
        split,
        "rel_actions",
        bad,
        check="rel-actions",
        severity=_by_share(bad.any(axis=1).sum(), sound.sum()),
        expected="the clipped difference of actions and robot_obs in units of 2 cm and 0.05 rad",
        advice="Models are trained on these: they must move the simulator as they moved the robot",
    )


def next_poses(split: Split) -> Iterator[Finding]:
    """Absolute actions against the state of the next frame of the same episode."""
    ids, vectors = split.sample.ids, split.sample.vectors
    episodes = split.episode_of(ids)
    sound = _sound(split, "actions") & _sound(split, "robot_obs", shift=1)
    paired = np.zeros(len(ids), bool)
    paired[:-1] = (np.diff(ids) == 1) & (np.diff(episodes) == 0) & (episodes[1:] >= 0)
    paired &= sound
    reached = np.roll(vectors["robot_obs"], -1, axis=0)
    with np.errstate(invalid="ignore"):
        gap = vectors["actions"] - reached[:, [*range(6), COMMAND]]
        gap[:, 3:6] = (gap[:, 3:6] + np.pi) % (2 * np.pi) - np.pi
    bad = np.where(paired[:, None], np.abs(gap) > _POSE_TOLERANCE, False)
    yield from _of_elements(
        split,
        "actions",
        bad,
        check="next-pose",
        severity=_by_share(bad.any(axis=1).sum(), paired.sum()),
        expected="TCP pose and gripper command of the next frame",
        advice="Either frames were left out, or actions are commands instead of reached poses",
    )


def _sound(split: Split, *names: str, shift: int = 0) -> np.ndarray:
    """bool [N]: whether no other check complains about these vectors, ``shift`` frames ahead."""
    sound = np.ones(len(split.sample.ids), bool)
    for name in names:
        value = split.sample.vectors[name]
        low, high = np.array(VECTORS[name].bounds).T
        sound &= ((value >= low - TOLERANCE) & (value <= high + TOLERANCE)).all(axis=1)
        command = COMMAND if name == "robot_obs" else GRIPPER
        sound &= np.abs(value[:, command]) == 1
    return np.roll(sound, -shift)


def _by_share(wrong: int, checked: int) -> Severity:
    return "error" if wrong > _FEW * checked else "warning"


def _of_elements(
    split: Split,
    name: str,
    bad: np.ndarray,
    *,
    check: str,
    severity: Severity,
    expected: str | list[str],
    advice: str,
) -> Iterator[Finding]:
    """One finding of the frames in which elements of vector ``name`` are ``bad``; bool [N, L].

    ``expected`` of all elements, or of each.
    """
    rows = np.flatnonzero(bad.any(axis=1))
    if len(rows):
        place = int(bad[rows[0]].argmax())
        yield Finding(
            check=check,
            severity=severity,
            file=split.frame_file(int(split.sample.ids[rows[0]])),
            found=f"{name}[{place}] is {split.sample.vectors[name][rows[0], place]:.6g}",
            count=len(rows),
            expected=expected if isinstance(expected, str) else expected[place],
            advice=advice,
        )
