"""Whether a policy sees the images that it learned from."""

from pipeline.origin import mismatch

OFFICIAL = {"renderer": "egl", "robot_model": "panda_longer_finger", "scene_source": "calvin"}
EMBEDDED = {"renderer": "tiny", "robot_model": "light", "scene_source": "embedded"}


def test_calvins_own_recordings_need_not_say_what_they_are() -> None:
    data = {"renderer": "egl", "robot_model": None, "scene_source": None, "backend": None}
    for backend in ("embedded", "calvin_env"):
        assert mismatch(data, {**OFFICIAL, "backend": backend}) is None
    assert mismatch({}, OFFICIAL) is None


def test_every_difference_is_named() -> None:
    assert mismatch(EMBEDDED, EMBEDDED) is None
    assert mismatch({"renderer": "egl"}, EMBEDDED) == (
        "the data was made with renderer egl, robot_model unknown, scene_source unknown, "
        "the simulator runs with renderer tiny, robot_model light, scene_source embedded"
    )
    assert mismatch(EMBEDDED, {**EMBEDDED, "robot_model": "full"}) == (
        "the data was made with robot_model light, the simulator runs with robot_model full"
    )
