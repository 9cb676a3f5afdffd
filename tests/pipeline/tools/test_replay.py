"""``wam replay`` on recordings made here: exact, told apart, and clear about bad files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pybullet")

from pipeline.cli import main
from wam.envs.play.starts import random_scene
from wam.envs.scene_files.geometry import SCENES
from wam.envs.simulator.play_table import PlayTableEnv
from wam.envs.simulator.robot import HOME_JOINTS

HOME = np.array([0, 0, 0, 0, 0, 0, 0.08, *HOME_JOINTS, 1.0])


@pytest.fixture(scope="module")
def recording() -> dict[str, Any]:
    """Pressing the button in a fresh client, in the format of a trace."""
    scene_obs = random_scene(np.random.default_rng(0), SCENES["D"])
    scene_obs[5] = 0
    env = PlayTableEnv("D", cameras=False)
    try:
        first, _ = env.reset(options={"robot_obs": HOME, "scene_obs": scene_obs})
        goals = [(-0.12, -0.12, 0.54)] * 20 + [(-0.12, -0.12, 0.47)] * 12
        actions, states = [], []
        for goal in goals:
            motion = np.clip((np.array(goal) - env.target_pose[:3]) / 0.02, -1, 1)
            actions.append([*motion, 0, 0, 0, -1.0])
            states.append(env.step(actions[-1])[0])
    finally:
        env.close()
    led = [state["scene_obs"][5] for state in states]
    return {
        "scene": "calvin_scene_D",
        "reset_robot_obs": HOME,
        "reset_scene_obs": scene_obs,
        "robot_obs_0": first["robot_obs"],
        "scene_obs_0": first["scene_obs"],
        "actions": np.array(actions),
        "robot_obs": np.stack([state["robot_obs"] for state in states]),
        "scene_obs": np.stack([state["scene_obs"] for state in states]),
        "task": "turn_on_led",
        "success_step": led.index(1),
    }


def as_json(
    path: Path, recording: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    np.savez(path, **recording)
    main(["replay", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def test_own_recording_is_exact(
    recording: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(tmp_path / "trace.npz", recording, capsys)
    assert found == {
        "scene": "D",
        "max_abs_robot_obs": 0.0,
        "max_abs_scene_obs": 0.0,
        "max_tcp_m": 0.0,
        "success_step": recording["success_step"],
        "recorded_success_step": recording["success_step"],
    }


def test_differences_are_reported(
    recording: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = recording["robot_obs"].copy()
    shifted[7, 2] += 0.03
    shifted[:, 3] -= 2 * np.pi
    changed = {**recording, "robot_obs": shifted, "success_step": 3}
    found = as_json(tmp_path / "trace.npz", changed, capsys)
    assert found["max_abs_robot_obs"] == pytest.approx(0.03)
    assert found["max_tcp_m"] == pytest.approx(0.03)
    assert found["max_abs_scene_obs"] == 0
    assert found["recorded_success_step"] == 3
    main(["replay", str(tmp_path / "trace.npz")])
    assert "largest distance of the TCP: 30 mm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"robot_obs": None}, "robot_obs is missing"),
        ({"actions": np.zeros((32, 6))}, "actions: shape"),
        ({"scene_obs": np.zeros((31, 24))}, "scene_obs: shape"),
        ({"robot_obs": np.full((32, 15), np.nan)}, "not finite"),
        ({"scene": "calvin_scene_X"}, "unknown scene"),
        ({"scene": "kitchen"}, "expected calvin_scene_D"),
        ({"task": "make_coffee"}, "unknown task"),
    ],
)
def test_bad_traces(
    recording: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    content = {key: value for key, value in (recording | change).items() if value is not None}
    path = tmp_path / "trace.npz"
    np.savez(path, **content)
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(path)])
    assert stop.value.code == 1
    assert words in capsys.readouterr().out.replace("\n", " ")


def test_damaged_files(
    recording: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, **recording)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(SystemExit):
            main(["replay", str(path)])
        assert "not a trace" in capsys.readouterr().out
