"""The adapter of the official package, against a stand-in with the package's shapes and traps.

The stand-in is made from its documented behaviour (docs/calvin.md 1.7, 2.3 to 2.10) and is found
and configured the way the package is; behind it is the embedded simulator.
"""

import gc
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hydra")

from wam.envs.calvin_env import CalvinEnv
from wam.envs.controls import ScriptedExpert
from wam.envs.episode import Episode
from wam.envs.factory import make_env
from wam.envs.pool import EnvPool
from wam.envs.settings import SimulatorConfig
from wam.envs.simulator.robot import HOME_JOINTS
from wam.envs.simulator.spaces import observation_space
from wam.errors import WamError

FILES = {
    ".git/HEAD": "ref: refs/heads/main\n",
    "git/__init__.py": "",
    "gym/__init__.py": """
import os, sys, warnings
print("Gym is not maintained any more", file=sys.stderr)
warnings.warn("gym does not know this NumPy")
os.write(2, b"gym\\n")
""",
    "hydra_plugins/hydra_colorlog/__init__.py": "",
    "calvin_env/__init__.py": "",
    "calvin_env/sim.py": '''
import os
import warnings

import gym
import numpy as np
from wam.envs.simulator.play_table import PlayTableEnv


class Robot:
    """Keeps its last command over a reset, and says when it goes."""

    def __init__(self, env):
        self._env, self.gripper_action = env, 1

    def __del__(self):
        print("the robot is gone")

    @property
    def target_pos(self):
        return self._env.target_pose[:3]

    @property
    def target_orn(self):
        return tuple(self._env.target_pose[3:])


class PlayTableSimEnv:
    def __init__(self, robot_cfg, cameras, scene_cfg, seed, use_vr, show_gui, use_scene_info,
                 use_egl, data_path):
        assert not use_vr and not show_gui and use_scene_info and data_path.endswith("data")
        sizes = {name: camera["height"] for name, camera in cameras.items()}
        assert sizes == {name: camera["width"] for name, camera in cameras.items()}
        self._cameras, self._open = sizes, True
        chatter("made")
        self._env = PlayTableEnv(
            scene_cfg["name"][-1],
            renderer="egl" if use_egl else "tiny",
            static_size=sizes.get("static", 8),
            gripper_size=sizes.get("gripper", 8),
            cameras=bool(sizes),
            depth=True,
        )
        self.robot = Robot(self._env)

    def seed(self, seed=None):
        pass

    def reset(self, robot_obs=None, scene_obs=None):
        if scene_obs is not None and not all(light in (0, 1) for light in scene_obs[4:6]):
            raise ValueError("light")
        chatter("reset")
        states = {"robot_obs": robot_obs, "scene_obs": scene_obs}
        observation, self._info = self._env.reset(options=states)
        return self._nested(observation)

    def step(self, action):
        assert action[-1] in (-1, 1)
        observation, _, _, _, self._info = self._env.step(action)
        self.robot.gripper_action = int(action[-1])
        action[:] = 0
        return self._nested(observation), 0, False, self._info

    def get_info(self):
        return self._info

    def close(self):
        if not self._open:
            print("not connected to a physics server")
        chatter("disconnecting id 0")
        self._open = False
        self._env.close()

    def __del__(self):
        self.close()

    def _nested(self, observation):
        robot_obs = observation["robot_obs"]
        robot_obs[14] = self.robot.gripper_action
        images = {f"rgb_{name}": observation[f"rgb_{name}"] for name in self._cameras}
        depths = {f"depth_{name}": observation[f"depth_{name}"] for name in self._cameras}
        return {"rgb_obs": images, "depth_obs": depths, "robot_obs": robot_obs,
                "scene_obs": observation["scene_obs"]}


def chatter(text):
    print(text)
    warnings.warn(text)
    for descriptor in (1, 2):
        os.write(descriptor, text.encode())
''',
    "conf/config_data_collection.yaml": """
defaults:
  - cameras: static_and_gripper_and_tactile
  - scene: calvin_scene_A
  - env: play_table_env
  - _self_
seed: 0
use_vr: true
data_path: nowhere
robot: {name: panda_longer_finger}
""",
    "conf/env/play_table_env.yaml": """
_target_: calvin_env.sim.PlayTableSimEnv
_recursive_: false
robot_cfg: ${robot}
cameras: ${cameras}
scene_cfg: ${scene}
seed: ${seed}
use_vr: ${use_vr}
data_path: ${data_path}
show_gui: true
use_scene_info: false
use_egl: true
""",
    "conf/cameras/static_and_gripper.yaml": """
static: {width: 200, height: 200}
gripper: {width: 84, height: 84}
""",
    "conf/cameras/static_and_gripper_and_tactile.yaml": "tactile: {width: 120, height: 160}\n",
    "conf/cameras/no_cameras.yaml": "{}\n",
    **{f"conf/scene/calvin_scene_{name}.yaml": f"name: calvin_scene_{name}\n" for name in "ABCD"},
    "data/README": "",
}
HOLD = np.array([0, 0, 0, 0, 0, 0, 1.0])


def scene(**values: float) -> np.ndarray:
    state = np.zeros(24)
    for name, value in values.items():
        state[["slide", "drawer", "button", "switch", "bulb", "led"].index(name)] = value
    state[6:9], state[12:15], state[18:21] = (0.05, -0.12, 0.46), (0.2, -0.1, 0.46), (0, 0.09, 0.46)
    return state


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable checkout of the stand-in."""
    forget()
    root = tmp_path / "calvin's own = $1, {a}"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    monkeypatch.syspath_prepend(root)
    yield root
    forget()


def forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("calvin_env", "gym", "hydra_plugins"):
            del sys.modules[name]


@pytest.fixture
def env(checkout: Path) -> Iterator[CalvinEnv]:
    """Without cameras."""
    made = CalvinEnv("D", cameras=False)
    yield made
    made.close()


def test_observations_are_flat_and_of_the_sizes_asked_for(checkout: Path) -> None:
    env = CalvinEnv("B", renderer="tiny", static_size=48, gripper_size=32)
    observation, info = env.reset(options={"scene_obs": scene(led=1)})
    assert list(observation) == ["robot_obs", "scene_obs", "rgb_static", "rgb_gripper"]
    assert observation_space(48, 32, cameras=True).contains(observation)
    assert observation["rgb_static"].std() > 10
    assert (env.scene, env.renderer) == ("B", "tiny")
    observation, reward, terminated, truncated, info = env.step(HOLD)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["scene_info"]["lights"]["led"]["logical_state"] == 1
    env.close()


def test_actions_move_the_target_and_stay_the_callers(env: CalvinEnv) -> None:
    env.reset(options={"scene_obs": scene()})
    before = env.target_pose
    action = np.array([1.0, 0, 0, 0, 0, 0.5, -1.0])
    env.step(action)
    np.testing.assert_allclose(env.target_pose - before, [0.02, 0, 0, 0, 0, 0.025], atol=1e-12)
    assert action.tolist() == [1.0, 0, 0, 0, 0, 0.5, -1.0]


def test_the_gripper_command_is_that_of_the_reset(env: CalvinEnv) -> None:
    first, _ = env.reset()
    env.step([0, 0, 0, 0, 0, 0, -1])
    again, _ = env.reset(options={"robot_obs": first["robot_obs"]})
    assert (first["robot_obs"][14], again["robot_obs"][14]) == (1.0, 1.0)


def test_lights_are_rounded_and_half_lit_ones_refused(env: CalvinEnv) -> None:
    observation, _ = env.reset(options={"scene_obs": scene(bulb=0.99999, switch=0.088)})
    assert observation["scene_obs"][4] == 1.0
    with pytest.raises(WamError, match="lights"):
        env.reset(options={"scene_obs": scene(led=0.5)})
    with pytest.raises(WamError, match="gripper"):
        env.step([0, 0, 0, 0, 0, 0, 0.5])
    env.step(HOLD)


def test_a_whole_life_is_silent(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sys.stdout.write("before\n")
        env = CalvinEnv("D", renderer="tiny", static_size=16, gripper_size=16)
        for _ in range(2):
            env.reset()
            env.step(HOLD)
        env.close()
        env.close()
        del env
        gc.collect()
        os.write(2, b"after")
    assert capfd.readouterr() == ("before\n", "after")
    assert caught == []


def test_depth_and_render_are_those_of_the_embedded_simulator(checkout: Path) -> None:
    made = [config(depth=True), config(backend="embedded", depth=True)]
    official, embedded = (make_env(one) for one in made)
    with pytest.raises(WamError, match="render: the environment has not been reset"):
        official.render()
    observations = [env.reset(options={"scene_obs": scene()})[0] for env in (official, embedded)]
    assert observations[0].keys() == observations[1].keys()
    assert official.observation_space == embedded.observation_space
    assert official.observation_space.contains(observations[0])
    for name, values in observations[1].items():
        np.testing.assert_array_equal(observations[0][name], values)
    np.testing.assert_array_equal(official.render(), embedded.render())
    for env in (official, embedded):
        env.close()


def test_without_cameras_there_is_no_depth_and_nothing_to_render(checkout: Path) -> None:
    env = make_env(config(depth=True), cameras=False)
    assert list(env.reset()[0]) == ["robot_obs", "scene_obs"]
    with pytest.raises(WamError, match="render: the environment was made with cameras=False"):
        env.render()
    env.close()


def config(**changes: object) -> SimulatorConfig:
    settings = {"backend": "calvin_env", "scene": "D", "assets": None, "renderer": "tiny"}
    settings |= {"robot_model": "light", "static_size": 64, "gripper_size": 64}
    return SimulatorConfig(**{**settings, **changes})


def test_the_checkout_may_lie_elsewhere(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("conf", "data"):
        (checkout / name).rename(elsewhere / name)
    with pytest.raises(WamError, match=r"conf: not found; .*env\.assets"):
        make_env(config(), cameras=False)
    make_env(config(assets=str(elsewhere)), cameras=False).close()


def test_a_package_that_does_not_start_says_why(checkout: Path) -> None:
    (checkout / "calvin_env" / "sim.py").write_text("import no_such_module")
    with pytest.raises(WamError, match=r"does not start: ModuleNotFoundError: .*no_such_module"):
        make_env(config())
    main = checkout / "conf" / "config_data_collection.yaml"
    main.write_text(main.read_text().replace("data_path: nowhere\n", ""))
    with pytest.raises(WamError, match=r"does not start: ConfigAttributeError: .*data_path"):
        make_env(config())
    (checkout / "conf" / "scene" / "calvin_scene_C.yaml").unlink()
    with pytest.raises(WamError, match=r"does not start: .*calvin_scene_C"):
        make_env(config(scene="C"))


def test_one_that_fails_half_way_says_why_and_nothing_else(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = FILES["calvin_env/sim.py"] + "PlayTableSimEnv.seed = None\nRobot = None\n"
    (checkout / "calvin_env" / "sim.py").write_text(broken)
    with pytest.raises(WamError, match="does not start: TypeError") as error:
        make_env(config())
    assert "\n" not in str(error.value)
    del error
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_copy_without_git_is_refused(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").unlink()
    (checkout / ".git").rmdir()
    with pytest.raises(WamError, match=r"no \.git; .*: git clone https.*env\.assets"):
        make_env(config())


@pytest.mark.parametrize(
    ("module", "package"),
    [("hydra_plugins.hydra_colorlog", "hydra-colorlog"), ("gym", "gym"), ("git", "gitpython")],
)
def test_what_the_package_lacks_is_named_with_what_to_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    with pytest.raises(WamError, match=f"{package} is not installed; .*pip install {package}$"):
        make_env(config())


def test_the_expert_succeeds_in_the_pool_and_nothing_is_printed(
    checkout: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    robot_obs = np.array([*[0.0] * 6, 0.08, *HOME_JOINTS, 1.0])
    episodes = [
        Episode("turn_on_led", robot_obs, scene()),
        Episode("close_drawer", robot_obs, scene(drawer=0.2)),
    ]
    assert config().one_per_process
    with EnvPool(partial(make_env, config()), len(episodes), fresh_processes=True) as pool:
        first = pool.start(episodes)
        result = pool.follow(ScriptedExpert, 72)
    assert first.rgb_static is not None and first.rgb_static.shape == (2, 64, 64, 3)
    assert result.success.all()
    assert result.observations.scene_obs[0, -1, 5] == 1.0
    assert capfd.readouterr() == ("", "")


def test_advice_without_the_package() -> None:
    with pytest.raises(WamError) as error:
        make_env(config())
    advice = str(error.value)
    assert "calvin_env is not installed; env.backend calvin_env needs it: git clone " in advice
    assert "pip install --no-deps -e ./calvin_env" in advice, "a second OpenCV"
    assert "--recursive" not in advice
