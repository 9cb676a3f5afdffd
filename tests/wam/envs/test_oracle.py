"""All 34 tasks: as CALVIN's simulator detected them, on laid-out blocks, and done by the arm."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from wam.config import TASKS
from wam.envs.oracle import PREDICATES, achieved
from wam.envs.play.experts import CLOSED, DOWN, OPEN, Waypoint, reached, toward
from wam.envs.scene_files.geometry import BLOCK_COLOURS
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.robot import FINGER_OPEN_M

Pose = tuple[float, ...]
Info = dict[str, Any]

SPOTS = {
    "table": (0.08, -0.10, 0.46),
    "slider": (-0.24, 0.07, 0.461),
    "drawer": (0.18, -0.27, 0.36),
}
"""Where blocks rest; the sliding door, when closed, leaves this part of the shelf open."""
LIFT_M = {"table": 0.05, "slider": 0.03, "drawer": 0.05}
"""docs/calvin.md 4: how far a block must be lifted off each surface."""
ACROSS = DOWN[2]
"""A block's yaw at which the open hand fits around its width."""
TABLE, SHELF, DRAWER = SPOTS.values()
BESIDE, FAR = (0.27, -0.12, 0.46), (0.37, -0.05, 0.46)
ON_BESIDE = (0.27, -0.12, 0.50)


def test_names_are_calvins_in_calvins_order(assets: Path) -> None:
    path = assets / "conf" / "tasks" / "new_playtable_tasks.yaml"
    assert list(PREDICATES) == list(yaml.safe_load(path.read_text())["tasks"])


def test_there_are_34_tasks_and_the_eight_are_among_them() -> None:
    assert len(PREDICATES) == 34
    assert set(TASKS) < set(PREDICATES)


@pytest.mark.parametrize(
    "name", ["free_D", "random_D_0", "random_D_3", *(f"task_D_{task}" for task in TASKS)]
)
def test_detects_what_calvin_detected_at_every_step(golden: Path, assets: Path, name: str) -> None:
    trace = np.load(golden / f"{name}.npz")
    env = PlayTableEnv("D", assets=assets, cameras=False)
    try:
        _, start = env.reset(
            options={field: trace[f"reset_{field}"] for field in ("robot_obs", "scene_obs")}
        )
        infos = [env.step(action)[-1] for action in trace["actions"]]
    finally:
        env.close()
    recorded = [set(names) for names in json.loads(str(trace["tasks_detected"]))]
    assert [achieved(start, info) for info in infos] == recorded
    touched = [
        {(contact[2], contact[3], contact[4]) for contact in info["robot_info"]["contacts"]}
        for info in infos
    ]
    assert touched == [set(map(tuple, rows)) for rows in json.loads(str(trace["robot_contacts"]))]


def layout(blocks: dict[str, Pose], drawer: float = 0.22) -> np.ndarray:
    """``scene_obs`` of scene D with blocks at (x, y, z[, yaw[, roll]])."""
    scene = np.zeros(24)
    scene[1] = drawer
    for index, colour in enumerate(BLOCK_COLOURS):
        x, y, z, yaw, roll = (*blocks[colour], 0.0, 0.0)[:5]
        scene[6 + 6 * index : 12 + 6 * index] = x, y, z, roll, 0.0, yaw
    return scene


def look(env: PlayTableEnv, moved: str, pose: Pose, others: tuple[Pose, Pose], hold: int) -> Info:
    """``info`` with block ``moved`` at ``pose``, ``hold`` steps after the reset."""
    rest = iter(others)
    blocks = {colour: pose if colour == moved else next(rest) for colour in BLOCK_COLOURS}
    _, info = env.reset(options={"scene_obs": layout(blocks)})
    for _ in range(hold):
        info = env.step([0, 0, 0, 0, 0, 0, 1])[-1]
    return info


def shifted(pose: Pose, dx: float = 0.0, dy: float = 0.0, yaw_deg: float = 0.0) -> Pose:
    return (pose[0] + dx, pose[1] + dy, pose[2], math.radians(yaw_deg))


def tilted(roll_deg: float) -> Pose:
    """Turned by 70 degrees, one of its long edges pressed into the table."""
    roll = math.radians(roll_deg)
    height = 0.438 + 0.02 * (math.cos(roll) + math.sin(roll))
    return (*TABLE[:2], height, math.radians(70), roll)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (TABLE, TABLE, set()),
        (TABLE, shifted(TABLE, yaw_deg=61), {"rotate_{}_block_left"}),
        (TABLE, shifted(TABLE, yaw_deg=59), set()),
        (TABLE, shifted(TABLE, yaw_deg=179), {"rotate_{}_block_left"}),
        (TABLE, shifted(TABLE, yaw_deg=181), {"rotate_{}_block_right"}),
        (TABLE, shifted(TABLE, yaw_deg=-61), {"rotate_{}_block_right"}),
        (TABLE, shifted(TABLE, yaw_deg=-59), set()),
        (TABLE, shifted(TABLE, 0.095, 0.02, 90), {"rotate_{}_block_left"}),
        (TABLE, shifted(TABLE, 0.099, 0.02, 90), set()),
        (TABLE, shifted(TABLE, 0.102), {"push_{}_block_right"}),
        (TABLE, shifted(TABLE, 0.098), set()),
        (TABLE, shifted(TABLE, -0.098), set()),
        (TABLE, shifted(TABLE, -0.102), {"push_{}_block_left"}),
        (shifted(SHELF, -0.06), shifted(SHELF, 0.05), {"push_{}_block_right"}),
        (shifted(DRAWER, 0.08), shifted(DRAWER, -0.08), {"push_{}_block_left"}),
        (shifted(SHELF, 0.07), TABLE, set()),
        (TABLE, DRAWER, {"push_into_drawer"}),
        (DRAWER, TABLE, set()),
        (SHELF, DRAWER, set()),
        (TABLE, ON_BESIDE, {"stack_block"}),
        (ON_BESIDE, TABLE, {"unstack_block"}),
        (ON_BESIDE, ON_BESIDE, set()),
        (ON_BESIDE, DRAWER, {"unstack_block"}),
    ],
)
@pytest.mark.parametrize("colour", BLOCK_COLOURS)
def test_blocks_at_rest(
    env: PlayTableEnv, colour: str, start: Pose, end: Pose, expected: set[str]
) -> None:
    infos = [look(env, colour, pose, (BESIDE, FAR), hold=4) for pose in (start, end)]
    assert achieved(*infos) == {name.format(colour) for name in expected}


@pytest.mark.parametrize(("roll_deg", "expected"), [(28, {"rotate_red_block_left"}), (32, set())])
def test_a_turned_block_may_tilt_by_thirty_degrees(
    env: PlayTableEnv, roll_deg: float, expected: set[str]
) -> None:
    start = look(env, "red", TABLE, (BESIDE, FAR), hold=0)
    assert achieved(start, look(env, "red", tilted(roll_deg), (BESIDE, FAR), hold=0)) == expected


def test_a_block_in_the_air_has_no_task(env: PlayTableEnv) -> None:
    start = look(env, "red", TABLE, (BESIDE, FAR), hold=4)
    thrown = (*TABLE[:2], 0.6, math.pi / 2)
    assert achieved(start, look(env, "red", thrown, (BESIDE, FAR), hold=0)) == set()


def test_touching_neighbours_restrict_push(env: PlayTableEnv) -> None:
    """Red (5.6 cm long) and blue (4 cm) side by side."""
    neighbour = (TABLE[0] + 0.048, *TABLE[1:])
    apart, touching, left = (
        look(env, "red", red, (blue, FAR), hold=2)
        for red, blue in ((TABLE, BESIDE), (TABLE, neighbour), (DRAWER, neighbour))
    )
    assert achieved(apart, touching) == {"push_blue_block_left"}
    # Blue leaves a neighbour that it also touched: not the same surface.
    assert achieved(touching, apart) == set()
    # Red touched more than the table.
    assert achieved(touching, left) == set()
    assert achieved(apart, left) == {"push_into_drawer", "push_blue_block_left"}


def test_stacked_again_elsewhere(env: PlayTableEnv) -> None:
    """Red moves from blue onto pink: it touched a block at the start, and does at the end."""
    start, end = (
        look(env, "red", (x, y, 0.50), (BESIDE, FAR), hold=4) for x, y, _ in (BESIDE, FAR)
    )
    assert achieved(start, end) == set()


def edited(info: Info, block: str, **values: Any) -> Info:
    """``info`` with other measurements of a block."""
    info = copy.deepcopy(info)
    info["scene_info"]["movable_objects"][block].update(values)
    return info


@pytest.mark.parametrize("kind", ["current_lin_vel", "current_ang_vel"])
@pytest.mark.parametrize(("speed", "slow"), [(0.99, True), (1.0, False), (-1.0, False)])
def test_a_stacked_block_is_slow(env: PlayTableEnv, kind: str, speed: float, slow: bool) -> None:
    single = look(env, "red", TABLE, (BESIDE, FAR), hold=4)
    stacked = look(env, "red", ON_BESIDE, (BESIDE, FAR), hold=4)
    moving = edited(stacked, "block_red", **{kind: (0.0, 0.0, speed)})
    assert achieved(single, moving) == ({"stack_block"} if slow else set())
    assert achieved(moving, single) == ({"unstack_block"} if slow else set())


def test_limits_are_strict(env: PlayTableEnv) -> None:
    """Except for the way that a turned block may travel, which is where a push begins."""
    start = edited(
        look(env, "red", TABLE, (BESIDE, FAR), hold=4), "block_red", current_pos=(0.0, 0.0, 0.46)
    )
    end = look(env, "red", shifted(TABLE, yaw_deg=90), (BESIDE, FAR), hold=4)

    def at(x: float) -> set[str]:
        return achieved(start, edited(end, "block_red", current_pos=(x, 0.0, 0.46)))

    assert at(0.1) == {"rotate_red_block_left"}
    assert at(math.nextafter(0.1, 1)) == {"push_red_block_right"}
    assert at(-0.1) == {"rotate_red_block_left"}
    assert at(math.nextafter(-0.1, -1)) == {"push_red_block_left"}


class Hand:
    """The arm over a given scene, moved from point to point with the fingers down."""

    def __init__(self, env: PlayTableEnv, blocks: dict[str, Pose], drawer: float = 0.22) -> None:
        self.env = env
        self.observation, _ = env.reset(options={"scene_obs": layout(blocks, drawer)})
        self.gripper = OPEN
        self.info = self.wait()

    def wait(self, steps: int = 5) -> Info:
        for _ in range(steps):
            self._step(np.array([0, 0, 0, 0, 0, 0, self.gripper]))
        return self.info

    def move(self, *points: Pose, yaw: float = DOWN[2], max_steps: int = 40) -> Info:
        for point in points:
            goal = Waypoint(point[:3], (*DOWN[:2], yaw), self.gripper, 0.004)  # type: ignore[arg-type]
            for _ in range(max_steps):
                robot_obs = self.observation["robot_obs"]
                if reached(goal, robot_obs) and abs(robot_obs[5] - yaw) < 0.02:
                    break
                self._step(toward(goal, robot_obs, self.env.target_pose))
        return self.info

    def close(self) -> Info:
        self.gripper = CLOSED
        return self.wait()

    def open(self) -> Info:
        self.gripper = OPEN
        return self.wait()

    def grasp(self, block: Pose) -> Info:
        """Close the hand around a block from above."""
        x, y, z = block[:3]
        # The shelf is reached below the cabinet's roof.
        way = [(x, -0.10, 0.58)] if y > 0 else []
        self.move(*way, (x, y, z + 0.12), (x, y, z + 0.005))
        return self.close()

    def lift(self, height: float = 0.10) -> Info:
        x, y, z = self.observation["robot_obs"][:3]
        return self.move((x, y, z + height))

    def _step(self, action: np.ndarray) -> None:
        self.observation, _, _, _, self.info = self.env.step(action)


def set_up(env: PlayTableEnv, colour: str, pose: Pose, drawer: float = 0.22) -> Hand:
    """Block ``colour`` at ``pose`` as the hand can grasp it, the others out of the way."""
    others = iter((BESIDE, FAR))
    blocks = {c: (*pose, ACROSS) if c == colour else next(others) for c in BLOCK_COLOURS}
    return Hand(env, blocks, drawer)


@pytest.mark.parametrize("surface", SPOTS)
@pytest.mark.parametrize("colour", BLOCK_COLOURS)
def test_the_arm_lifts_a_block(env: PlayTableEnv, colour: str, surface: str) -> None:
    hand = set_up(env, colour, SPOTS[surface])
    start = hand.info
    assert achieved(start, hand.grasp(SPOTS[surface])) == set()
    lifted = hand.lift()
    assert hand.observation["robot_obs"][6] < FINGER_OPEN_M
    assert achieved(start, lifted) == {f"lift_{colour}_block_{surface}"}
    # Relative to a moment in the air, the same hand has lifted nothing.
    assert achieved(lifted, hand.lift(0.04)) == set()

    base = start["scene_info"]["movable_objects"][f"block_{colour}"]["current_pos"]
    least = LIFT_M[surface]
    for height, high_enough in ((least + 1e-9, True), (least - 1e-9, False)):
        end = edited(lifted, f"block_{colour}", current_pos=(*base[:2], base[2] + height))
        assert achieved(start, end) == (
            {f"lift_{colour}_block_{surface}"} if high_enough else set()
        )


def test_the_arm_places_a_block_in_the_drawer(env: PlayTableEnv) -> None:
    hand = set_up(env, "red", TABLE)
    start, grasped, lifted = hand.info, hand.grasp(TABLE), hand.lift()
    x, y, z = DRAWER
    hand.move((x, y, z + 0.14), (x, y, z + 0.012))
    lowered = hand.move((x, y, z), max_steps=6)
    assert achieved(lifted, lowered) == set()
    # CALVIN counts a block that the hand still holds: its exclusion never triggers.
    assert achieved(start, lowered) == {"push_into_drawer"}
    hand.open()
    placed = hand.lift(0.14)
    assert achieved(lifted, placed) == {"place_in_drawer"}
    # In the hand, but still touching the table.
    assert achieved(grasped, placed) == set()


def test_the_arm_places_a_block_on_the_shelf(env: PlayTableEnv) -> None:
    hand = set_up(env, "blue", TABLE)
    hand.grasp(TABLE)
    lifted = hand.lift()
    x, y, z = SHELF
    assert achieved(lifted, hand.move((x, -0.10, 0.58), (x, y, 0.55), (x, y, z + 0.008))) == set()
    hand.open()
    assert achieved(lifted, hand.lift(0.08)) == {"place_in_slider"}


def test_the_arm_puts_a_block_back_on_the_table(env: PlayTableEnv) -> None:
    """For which there is no task."""
    hand = set_up(env, "pink", TABLE)
    start = hand.info
    hand.grasp(TABLE)
    lifted = hand.lift()
    x, y, z = TABLE
    hand.move((x, y, z + 0.006))
    hand.open()
    down = hand.lift()
    assert achieved(lifted, down) == achieved(start, down) == set()


def test_the_arm_stacks_and_unstacks(env: PlayTableEnv) -> None:
    hand = set_up(env, "red", TABLE)
    start = hand.info
    hand.grasp(TABLE)
    lifted = hand.lift()
    x, y, z = ON_BESIDE
    lowered = hand.move((x, y, z + 0.08), (x, y, z + 0.007))
    assert "stack_block" not in achieved(start, lowered)
    hand.open()
    stacked = hand.lift()
    assert achieved(start, stacked) == achieved(lifted, stacked) == {"stack_block"}
    grasped = hand.grasp(ON_BESIDE)
    unstacked = hand.lift()
    assert achieved(stacked, unstacked) == {"unstack_block"}
    # In the hand a block does not rest on blocks alone.
    assert achieved(grasped, unstacked) == set()


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
def test_the_arm_turns_a_block(env: PlayTableEnv, side: str, sign: int) -> None:
    hand = set_up(env, "pink", TABLE)
    start = hand.info
    hand.grasp(TABLE)
    x, y, z = TABLE
    for degrees in (50, 67):
        assert achieved(start, hand.info) == set()
        yaw = DOWN[2] + sign * math.radians(degrees)
        hand.move((x, y, z + 0.03), (x, y, z + 0.03), (x, y, z + 0.006), yaw=yaw)
    hand.open()
    assert achieved(start, hand.info) == {f"rotate_pink_block_{side}"}


@pytest.mark.parametrize(("side", "sign"), [("right", 1), ("left", -1)])
def test_the_arm_pushes_a_block(env: PlayTableEnv, side: str, sign: int) -> None:
    spot = (0.10, -0.08, 0.46)
    hand = set_up(env, "red", spot)
    start = hand.close()
    behind, ahead = (spot[0] + sign * step for step in (-0.07, 0.09))
    hand.move((behind, spot[1], 0.55), (behind, spot[1], 0.463), (ahead, spot[1], 0.463))
    assert achieved(start, hand.info) == {f"push_red_block_{side}"}


def test_the_arm_pushes_a_block_into_the_drawer(env: PlayTableEnv) -> None:
    hand = set_up(env, "red", (0.18, -0.10, 0.46))
    start = hand.close()
    hand.move((0.18, -0.04, 0.53), (0.18, -0.04, 0.463), (0.18, -0.19, 0.463))
    assert achieved(start, hand.wait(10)) == {"push_into_drawer"}
