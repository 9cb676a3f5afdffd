"""Whether a policy sees the images that it learned from."""

from pipeline.evaluation.compatibility import mismatch

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


def test_another_scene_is_a_difference() -> None:
    simulator = {**EMBEDDED, "scene": "D"}
    for data in ({"scene": "D", "scenes": ["D"]}, {"scene": None, "scenes": []}, {}):
        assert mismatch({**EMBEDDED, **data}, simulator) is None
    assert mismatch({**EMBEDDED, "scenes": ["A"]}, EMBEDDED) is None, "no scene to compare with"
    assert mismatch({**EMBEDDED, "scene": "A", "scenes": ["A"]}, simulator) == (
        "the data was made with scene A, the simulator runs with scene D"
    )
    assert mismatch({**EMBEDDED, "scene": None, "scenes": ["A", "B", "D"]}, simulator) == (
        "the data was made with scene A and B and D, the simulator runs with scene D"
    )


def test_another_image_size_is_a_difference() -> None:
    shapes = {"rgb_static": [200, 200, 3], "rgb_gripper": [84, 84, 3]}
    data = {**EMBEDDED, "source_image_shapes": shapes}
    assert mismatch(data, {**EMBEDDED, "static_size": 200, "gripper_size": 84}) is None
    assert mismatch(data, {**EMBEDDED, "static_size": 64, "gripper_size": 84}) == (
        "the data was made with rgb_static 200x200, the simulator runs with rgb_static 64x64"
    )
