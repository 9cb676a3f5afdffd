"""Settings of environments, and the factory that follows them."""

import pickle
import subprocess
import sys
from functools import partial

import pytest

from wam.envs.factory import make_env
from wam.envs.settings import SimulatorConfig, require_packages
from wam.envs.simulator import renderer
from wam.envs.simulator.play_table import PlayTableEnv
from wam.errors import WamError

EMBEDDED = SimulatorConfig(
    backend="embedded",
    scene="A",
    assets=None,
    renderer="tiny",
    robot_model="full",
    static_size=48,
    gripper_size=32,
)


def changed(**values: object) -> SimulatorConfig:
    return SimulatorConfig(**{**vars(EMBEDDED), **values})


def test_the_factory_follows_its_settings_in_any_process() -> None:
    make = pickle.loads(pickle.dumps(partial(make_env, EMBEDDED)))
    env = make()
    observation, info = env.reset(seed=0)
    env.close()
    assert isinstance(env, PlayTableEnv)
    assert (env.scene, env.renderer) == ("A", "tiny")
    assert observation["rgb_static"].shape == (48, 48, 3)
    assert observation["rgb_gripper"].shape == (32, 32, 3)
    assert list(info["scene_info"]["movable_objects"]) == ["block_pink", "block_blue", "block_red"]
    env = make_env(EMBEDDED, cameras=False)
    assert "rgb_static" not in env.reset(seed=0)[0]
    env.close()


def test_settings_need_no_simulator() -> None:
    code = (
        "import sys; import wam.envs.factory; "
        "sys.exit(bool({'pybullet', 'gymnasium', 'hydra', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_recorded_with_frames_and_results() -> None:
    assert EMBEDDED.description() == {
        "backend": "embedded",
        "renderer": "tiny",
        "robot_model": "full",
        "scene_source": "embedded",
    }
    official = {"robot_model": "panda_longer_finger", "scene_source": "calvin"}
    assert EMBEDDED.description() | official == changed(assets="/calvin_env").description()
    assert changed(backend="calvin_env").description() == {
        "backend": "calvin_env",
        "renderer": "tiny",
        **official,
    }


@pytest.mark.parametrize(
    ("values", "alone"),
    [({}, False), ({"renderer": "egl"}, True), ({"backend": "calvin_env"}, True)],
)
def test_who_needs_a_process_alone(values: dict[str, object], alone: bool) -> None:
    assert changed(**values).one_per_process is alone


def test_auto_is_resolved_before_workers_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(renderer.VERDICT, raising=False)
    assert changed(renderer="auto").resolved().renderer in ("tiny", "egl")
    assert EMBEDDED.resolved() == EMBEDDED


def test_a_missing_package_comes_with_advice() -> None:
    require_packages("embedded", "of no use")
    with pytest.raises(WamError, match=r"calvin_env is not installed; evaluation.*: git clone"):
        require_packages("calvin_env", "evaluation runs in it")
