"""The forms of an action: what is accepted, and where each brings the arm."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wam.envs.simulator.actions import (
    AbsoluteJoints,
    AbsolutePose,
    RelativeJoints,
    RelativePose,
    parse_action,
)
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError

POSITION, EULER = (0.03, -0.2, 0.55), (3.09, -0.03, 1.5)
QUATERNION = tuple(Rotation.from_euler("xyz", EULER).as_quat())
JOINTS = (-1.2, 1.0, 2.1, -2.3, -0.9, 1.6, 0.5)
HOLD = np.array([0, 0, 0, 0, 0, 0, 1.0])
RISE = np.array([0, 0, 0.02, 0, 0, 0])


@pytest.fixture
def home(env: PlayTableEnv) -> PlayTableEnv:
    """The arm at home, nothing in its way."""
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    "action",
    [
        [1, 2, 3, 4, 5, 6, -1],
        (1, 2, 3, 4, 5, 6, -1),
        np.array([1, 2, 3, 4, 5, 6, -1], np.float32),
        {"cartesian_rel": [1, 2, 3, 4, 5, 6, -1]},
    ],
)
def test_relative_poses_are_in_units_of_2_cm_and_005_rad(action: Any) -> None:
    parsed = parse_action(action)
    assert isinstance(parsed, RelativePose)
    np.testing.assert_allclose(parsed.motion, [0.02, 0.04, 0.06, 0.20, 0.25, 0.30])
    assert parsed.gripper == -1


@pytest.mark.parametrize(
    "action",
    [
        (POSITION, EULER, 1),
        (list(POSITION), np.array(EULER), [1]),
        (POSITION, QUATERNION, np.array([1.0])),
        {"cartesian_abs": [*POSITION, *EULER, 1]},
        {"cartesian_abs": [*POSITION, *QUATERNION, 1]},
        {"cartesian_abs": (POSITION, EULER, 1)},
        {"cartesian_abs": (POSITION, QUATERNION, 1)},
    ],
)
def test_absolute_poses_take_euler_angles_or_a_quaternion(action: Any) -> None:
    parsed = parse_action(action)
    assert isinstance(parsed, AbsolutePose)
    np.testing.assert_allclose(parsed.pose, [*POSITION, *EULER], atol=1e-9)
    assert parsed.gripper == 1


def test_joints_are_relative_or_absolute() -> None:
    relative = parse_action({"joint_rel": [*JOINTS, -1]})
    absolute = parse_action({"joint_abs": np.array([*JOINTS, 1])})
    assert isinstance(relative, RelativeJoints)
    assert isinstance(absolute, AbsoluteJoints)
    assert tuple(relative.motion) == tuple(absolute.joints) == JOINTS
    assert (relative.gripper, absolute.gripper) == (-1, 1)


def test_the_callers_array_is_neither_kept_nor_changed(home: PlayTableEnv) -> None:
    action = np.array([*POSITION, *EULER, 1])
    given = action.copy()
    home.step({"cartesian_abs": action})
    home.step(HOLD)
    assert np.array_equal(action, given)
    action[:] = 0
    np.testing.assert_array_equal(home.target_pose, given[:6])


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros(6), r"action: shape \(6,\); expected \(7,\)"),
        (np.zeros((1, 7)), r"action: shape \(1, 7\)"),
        (1.0, r"action: shape \(1,\)"),
        ("up", r"action: expected numbers of shape \(7,\), got 'up'"),
        (None, "action: shape"),
        ([0, 0, np.nan, 0, 0, 0, 1], "action: not finite"),
        ([0, 0, 0, 0, 0, 0, 0.5], "action: gripper command 0.5; expected exactly -1"),
        ((POSITION, EULER), "action: shape"),
        ((POSITION, EULER, 0), "action: gripper command 0.0"),
        ((POSITION, EULER, [1, 1]), r"action: gripper: shape \(2,\); expected \(1,\)"),
        ((POSITION, EULER, "open"), "action: gripper: expected numbers of shape .*, got 'open'"),
        ((POSITION[:2], EULER, 1), r"action: position: shape \(2,\); expected \(3,\)"),
        ((POSITION, JOINTS, 1), r"action: orientation: shape \(7,\); expected \(3,\) or \(4,\)"),
        ((POSITION, (0, 0, 0, 2), 1), "action: quaternion of length 2; expected 1"),
        ((POSITION, (0, 0, np.inf), 1), "action: orientation: not finite"),
        (
            {"cartesian_abs": np.zeros(6)},
            r"action: cartesian_abs: shape \(6,\); expected \(7,\) or",
        ),
        ({"cartesian_abs": np.zeros(8)}, "action: cartesian_abs: gripper"),
        ({"cartesian_abs": [0, 0, 0, 0, 0, 0, 0, 1]}, "action: cartesian_abs: quaternion"),
        ({"cartesian_rel": np.zeros(8)}, r"action: cartesian_rel: shape \(8,\); expected \(7,\)"),
        ({"joint_rel": HOLD}, r"action: joint_rel: shape \(7,\); expected \(8,\)"),
        ({"joint_abs": [*JOINTS, 2]}, "action: joint_abs: gripper command 2.0"),
        ({"joint_abs": [*JOINTS[:6], np.nan, 1]}, "action: joint_abs: not finite"),
        ({"joint": HOLD}, "action: keys .*'joint'.*; expected exactly one of cartesian_rel, "),
        ({"joint_rel": HOLD, "joint_abs": HOLD}, "action: keys .*; expected exactly one of"),
        ({}, "action: keys .*; expected exactly one of"),
    ],
)
def test_a_malformed_action_changes_nothing(home: PlayTableEnv, action: Any, words: str) -> None:
    twin = home.step(HOLD)[0]["robot_obs"]
    home.reset(seed=0)
    target, gripper = home.target_pose, home.robot.gripper_action
    with pytest.raises(WamError, match=words):
        home.step(action)
    assert np.array_equal(home.target_pose, target)
    assert home.robot.gripper_action == gripper
    assert np.array_equal(home.step(HOLD)[0]["robot_obs"], twin)


def two_centimetres_up(env: PlayTableEnv, form: str) -> Any:
    pose = env.target_pose + RISE
    quaternion = Rotation.from_euler("xyz", pose[3:]).as_quat()
    return {
        "relative": [0, 0, 1, 0, 0, 0, 1],
        "tuple": (pose[:3], pose[3:], 1),
        "euler": {"cartesian_abs": [*pose, 1]},
        "quaternion": {"cartesian_abs": [*pose[:3], *quaternion, 1]},
    }[form]


@pytest.mark.parametrize("form", ["relative", "tuple", "euler", "quaternion"])
def test_step_response(home: PlayTableEnv, form: str) -> None:
    """docs/calvin.md 2.2: the share of 2 cm that the TCP has risen after 1 to 7 steps."""
    start = home.target_pose[2]
    actions = [two_centimetres_up(home, form), *[HOLD] * 6]
    heights = [home.step(action)[0]["robot_obs"][2] for action in actions]
    share = (np.array(heights) - start) / 0.02
    np.testing.assert_allclose(share, [0.51, 0.78, 0.90, 0.953, 0.977, 0.987, 0.992], atol=0.006)


def states(env: PlayTableEnv, start: dict[str, np.ndarray], actions: list[Any]) -> np.ndarray:
    """``robot_obs`` and ``scene_obs`` [T, 39] after each action."""
    env.reset(options=start)
    observations = [env.step(action)[0] for action in actions]
    return np.stack([np.append(o["robot_obs"], o["scene_obs"]) for o in observations])


@pytest.mark.parametrize(
    "name", ["free_D", "random_D_0", "task_D_open_drawer", "task_D_turn_on_lightbulb"]
)
def test_absolute_actions_repeat_calvins_recording(golden: Path, assets: Path, name: str) -> None:
    """Relative actions recorded by CALVIN, given as the absolute poses that they add up to."""
    trace = np.load(golden / f"{name}.npz")
    start = {field: trace[f"reset_{field}"] for field in ("robot_obs", "scene_obs")}
    grippers = trace["actions"][:, 6]
    actions = [
        (pose[:3], pose[3:], gripper)
        for pose, gripper in zip(trace["target_pose"], grippers, strict=True)
    ]
    env = PlayTableEnv("D", assets=assets, cameras=False)
    try:
        repeated = states(env, start, actions)
    finally:
        env.close()
    assert np.array_equal(repeated, np.hstack([trace["robot_obs"], trace["scene_obs"]]))


def test_absolute_actions_repeat_relative_ones(home: PlayTableEnv) -> None:
    start = home.reset(seed=0)[0]
    home.reset(options=start)
    motions = np.random.default_rng(0).normal(0.0, 0.7, (30, 6))
    relative, absolute = [], []
    target = home.target_pose
    for motion in motions:
        target = target + motion * ([0.02] * 3 + [0.05] * 3)
        relative.append([*motion, -1])
        absolute.append({"cartesian_abs": [*target, -1]})
    assert np.array_equal(states(home, start, relative), states(home, start, absolute))


def test_relative_actions_add_to_an_absolute_target(home: PlayTableEnv) -> None:
    """Without clip and without wrap: 3 units are 6 cm, and an angle may exceed pi."""
    home.step((POSITION, EULER, 1))
    home.step([3, 0, 0, 3, 0, 0, 1])
    np.testing.assert_allclose(home.target_pose, [0.09, -0.2, 0.55, 3.24, -0.03, 1.5])


def test_joints_settle_at_their_targets(home: PlayTableEnv) -> None:
    for _ in range(15):
        observation = home.step({"joint_abs": [*JOINTS, -1]})[0]["robot_obs"]
    np.testing.assert_allclose(observation[7:14], JOINTS, atol=1e-3)
    assert observation[6] < 0.001
    assert observation[14] == -1


def test_relative_joints_start_from_the_measured_ones(home: PlayTableEnv) -> None:
    """Repeated before the arm has arrived, they do not accumulate what it still lags behind."""
    measured = home.robot.observe()[0][7:14]
    for _ in range(3):
        expected = measured + 0.02
        for action in ({"joint_rel": [*[0.02] * 7, 1]}, {"joint_abs": [*expected, 1]}):
            after = home.step(action)[0]["robot_obs"][7:14]
            assert ((after > measured) & (after < expected + 1e-4)).all()
        measured = after


def test_the_joints_stop_at_the_arms_limits(home: PlayTableEnv) -> None:
    """docs/calvin.md 2.2: joint 7 turns by at most 2.9671 rad."""
    for _ in range(60):
        observation = home.step({"joint_abs": [*JOINTS[:6], 9.0, 1]})[0]["robot_obs"]
    assert observation[13] == pytest.approx(2.9671, abs=1e-3)


@pytest.mark.parametrize("action", [{"joint_rel": [0.05] * 7 + [1]}, {"joint_abs": [*JOINTS, 1]}])
def test_a_relative_action_after_joints_starts_from_the_arm(
    home: PlayTableEnv, action: dict[str, list[float]]
) -> None:
    before = home.target_pose
    tcp = home.step(action)[0]["robot_obs"][:6]
    assert np.array_equal(home.target_pose, tcp)
    assert np.linalg.norm(tcp[:3] - before[:3]) > 0.005
    home.step([0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(home.target_pose, tcp + RISE, atol=1e-12)
    for _ in range(10):
        observation = home.step(HOLD)[0]["robot_obs"]
    np.testing.assert_allclose(observation[:3], tcp[:3] + RISE[:3], atol=5e-4)
