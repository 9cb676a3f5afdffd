import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import Layout
from pipeline.calvin import language, metadata, on_disk
from pipeline.latents import demonstrations
from pipeline.params import Profile
from pipeline.stages import convert, extract, index
from pipeline.store.open import open_store
from wam import tasks
from wam.errors import WamError

MakeProfile = Callable[..., Profile]


@pytest.fixture(scope="module")
def layout(
    tmp_path_factory: pytest.TempPathFactory, raw_root: Path, make_profile: MakeProfile
) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("extract"))
    _run(make_profile(raw_root), layout)
    return layout


def _run(profile: Profile, layout: Layout) -> None:
    index.run(profile, layout)
    convert.run(profile, layout)
    extract.run(profile, layout)


def test_demos_are_annotated_windows(layout: Layout) -> None:
    demos = demonstrations.load_demos(layout.demos)["close_drawer"]
    assert len(demos.training) == 2, "extract.demos_per_task of the 3"
    assert len(demos.validation) == 2, "all"
    store = open_store(layout.store / "training.zarr")
    for demo in demos.training:
        assert demo.start - demo.episode_start == 2
        assert demo.stop - demo.start == 32, "the stop of an annotation is exclusive"
        scene_obs = store.read("scene_obs", demo.start, demo.stop)
        assert tasks.achieved("close_drawer", scene_obs[0], scene_obs)[-1]


def test_starts_are_the_exact_first_states_of_validation_windows(
    layout: Layout, raw_root: Path
) -> None:
    demos = demonstrations.load_demos(layout.demos)["turn_on_led"]
    assert [start.frame_id for start in demos.starts] == [2, 52]
    for start in demos.starts:
        path = on_disk.frame_path(raw_root / "validation", start.frame_id)
        frame = on_disk.read_frame(path, ["robot_obs", "scene_obs"])
        assert start.robot_obs == frame["robot_obs"].tolist()
        assert start.scene_obs == frame["scene_obs"].tolist()


def test_draw_depends_on_seed_and_not_on_the_other_tasks(
    layout: Layout, raw_root: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    before = (layout.demos / demonstrations.DEMOS_FILE).read_bytes()
    profile = make_profile(raw_root)
    extract.run(profile, layout)
    assert (layout.demos / demonstrations.DEMOS_FILE).read_bytes() == before
    alone = Layout(tmp_path)
    _run(replace(profile, tasks=("turn_on_led",)), alone)
    both = demonstrations.load_demos(layout.demos)
    assert demonstrations.load_demos(alone.demos)["turn_on_led"] == both["turn_on_led"]
    with pytest.raises(WamError, match="'close_drawer': no demonstrations; extracted were turn_on"):
        demonstrations.load_demos(alone.demos)["close_drawer"]


def press_three_times(raw: Path) -> None:
    """The LED goes on at frame 20 of an episode: just behind a window, too far behind, inside."""
    windows = [(105, 118), (141, 144), (201, 225)]
    annotations = [language.Annotation("turn_on_led", "press", *window) for window in windows]
    language.write_annotations(raw / "training", annotations)


def test_window_is_extended_to_the_first_success(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    press_three_times(own_raw)
    layout = Layout(tmp_path / "data")
    profile = make_profile(own_raw)
    profile = replace(
        profile, tasks=("turn_on_led",), extract=replace(profile.extract, demos_per_task=3)
    )
    _run(profile, layout)
    demos = demonstrations.load_demos(layout.demos)["turn_on_led"].training
    assert [(demo.start, demo.stop) for demo in demos] == [(5, 21), (41, 44), (81, 105)]


def test_imagination_may_start_where_other_windows_do(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    press_three_times(own_raw)
    layout = Layout(tmp_path / "data")
    profile = make_profile(own_raw)
    settings = replace(profile.extract, demos_per_task=1, further_starts="annotated")
    _run(replace(profile, tasks=("turn_on_led",), extract=settings), layout)
    found = demonstrations.load_demos(layout.demos)["turn_on_led"]
    assert len(found.training) == 1
    assert {found.training[0].start, *found.imagination_starts} == {5, 41, 81}
    assert len(found.imagination_starts) == 2


def test_imagination_starts_satisfy_the_precondition_and_keep_clear(
    make_profile: MakeProfile, tmp_path: Path
) -> None:
    root = tmp_path / "raw"
    for split in ("training", "validation"):
        for frame_id in range(180):
            scene_obs = np.zeros(24)
            scene_obs[tasks.LED] = float(frame_id >= 100)
            frame = {
                "rgb_static": np.zeros((64, 64, 3), np.uint8),
                "rgb_gripper": np.zeros((64, 64, 3), np.uint8),
                "actions": np.eye(7)[6],
                "rel_actions": np.eye(7)[6],
                "robot_obs": np.eye(15)[14],
                "scene_obs": scene_obs,
            }
            on_disk.write_frame(root / split, frame_id, frame)
        metadata.write_split(root / split, [(0, 179)])
        language.write_annotations(
            root / split, [language.Annotation("turn_on_led", "x", 80, 110)] * 2
        )
    layout = Layout(tmp_path / "data")
    profile = make_profile(root)
    profile = replace(
        profile,
        tasks=("turn_on_led",),
        extract=replace(profile.extract, play_starts_per_task=1000, play_windows_per_task=60),
    )
    _run(profile, layout)
    found = demonstrations.load_demos(layout.demos)["turn_on_led"]
    # Off until 99: the last frame with 64 unchanged ones behind it is 35.
    assert found.imagination_starts == list(range(36))
    # Half of the windows of play see the LED go on at frame 100, the others begin too early.
    begins = [demo.start for demo in found.training_play]
    assert begins == sorted(set(begins))
    assert all(demo.stop - demo.start == extract.PLAY_FRAMES for demo in found.training_play)
    assert sum(37 <= row <= 99 for row in begins) == 30
    assert sum(row < 37 for row in begins) == 30
    assert len(found.validation_play) == 60
    assert len(found.training) == 1, "repeated annotations count once"


def test_demonstrations_of_an_older_format_name_the_stage_to_repeat(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    layout = Layout(Path(shutil.copytree(converted.root, tmp_path / "data")))
    extract.run(make_profile(raw_root), layout)
    path = layout.demos / demonstrations.DEMOS_FILE
    content = json.loads(path.read_text())
    for task in content["tasks"].values():
        del task["training_play"]
    path.write_text(json.dumps(content))
    with pytest.raises(WamError, match=r"demos.json: no 'training_play'; run 'wam extract' again"):
        demonstrations.load_demos(layout.demos)


def test_task_without_annotations_is_an_error_with_counts(
    raw_root: Path, make_profile: MakeProfile, converted: Layout, tmp_path: Path
) -> None:
    profile = replace(make_profile(raw_root), tasks=("close_drawer", "open_drawer"))
    with pytest.raises(
        WamError, match=r"'open_drawer': no annotated window in the training.*close_drawer 3"
    ):
        extract.run(profile, converted)
    assert not converted.demos.exists()


def test_missing_annotations_are_named(
    own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    (own_raw / "validation" / language.ANNOTATIONS).unlink()
    with pytest.raises(WamError, match=r"validation/lang_annotations/auto_lang_ann.npy: not found"):
        _run(make_profile(own_raw), Layout(tmp_path / "data"))


def test_play_shows_success_failed_attempts_and_other_things(tmp_path: Path) -> None:
    """Ten windows with the LED going on at 100, five with the hand at the button from 400 to 402,
    five with neither."""
    scene_obs, robot_obs = np.zeros((730, 24)), np.ones((730, 15))
    scene_obs[100:130, tasks.LED] = 1.0
    robot_obs[400:403, :3] = [0.3, 0.04, 0.0]

    class Recorded:
        path = tmp_path
        episodes = np.array([[0, 130], [130, 730]])

        def read(self, name: str, start: int, stop: int) -> np.ndarray:
            return {"scene_obs": scene_obs, "robot_obs": robot_obs}[name][start:stop]

        def episode_of_rows(self, rows: np.ndarray) -> np.ndarray:
            return (rows >= 130).astype(int)

    goals = np.array([[0.3, 0.0, 0.0], [-0.3, 0.0, 0.0]])
    rng = np.random.default_rng(0)
    windows = extract._play("turn_on_led", Recorded(), goals, 20, rng)  # type: ignore[arg-type]
    begins = np.array([window.start for window in windows])
    assert ((begins >= 37) & (begins <= 66)).sum() == 10
    assert ((begins >= 337) & (begins <= 401)).sum() == 5
    assert len(set(begins.tolist())) == 20


def test_demonstrations_are_found_without_the_raw_frames(
    layout: Layout, own_raw: Path, make_profile: MakeProfile, tmp_path: Path
) -> None:
    elsewhere = Layout(tmp_path / "data")
    profile = make_profile(own_raw)
    index.run(profile, elsewhere)
    convert.run(profile, elsewhere)
    shutil.rmtree(own_raw)
    extract.run(profile, elsewhere)
    assert demonstrations.load_demos(elsewhere.demos) == demonstrations.load_demos(layout.demos)
