"""Another world than the data's is refused, or said; raw frames are looked at first of all."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.evaluation.recordings import check_recording
from pipeline.evaluation.worlds import checked
from pipeline.params import load_profile
from pipeline.params.profile import Env
from wam.errors import WamError

EMBEDDED = {"renderer": "tiny", "robot_model": "light", "scene_source": "embedded", "scene": "D"}
CALVINS = {"renderer": "egl", "scene": "D"}


@pytest.fixture
def env() -> Env:
    return load_profile("ci", Path(__file__).parents[3] / "params.yaml").env


def test_the_world_of_the_data_passes_in_silence(
    env: Env, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(EMBEDDED, env.simulator(64, 64), env) is None
    assert capsys.readouterr().out == ""


def test_real_images_are_not_judged_in_the_embedded_scene(env: Env) -> None:
    with pytest.raises(WamError, match=r"scene_source.*embedded.*env\.assets.*env\.differences"):
        checked(CALVINS, env.simulator(64, 64), env)


def test_an_allowed_difference_is_told(env: Env, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = replace(env, differences="allow")
    difference = checked(CALVINS, allowed.simulator(64, 64), allowed)
    assert difference is not None and "renderer egl" in difference
    assert difference in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"), [({"scene": "B"}, "scene B"), ({"robot_model": "full"}, "full")]
)
def test_scene_and_robot_count(env: Env, change: dict[str, str], told: str) -> None:
    other = replace(env, **change)  # type: ignore[arg-type]
    with pytest.raises(WamError, match=told):
        checked(EMBEDDED, other.simulator(64, 64), other)


def test_a_renderer_that_is_not_chosen_yet_is_not_compared(env: Env) -> None:
    auto = replace(env, renderer="auto")
    assert checked(EMBEDDED, auto.simulator(64, 64), auto) is None


def test_raw_frames_are_refused_before_anything_is_made(raw_root: Path, env: Env) -> None:
    with pytest.raises(WamError, match="the data was made with"):
        check_recording(raw_root / "validation", env)
