"""Every defect of a data set is found under its own name, and nothing else is."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import conformance, language, metadata, on_disk, small_files
from pipeline.calvin.conformance import annotations, arrays, scenes, survey, values
from pipeline.calvin.conformance.survey import Split
from pipeline.params import load_profile
from pipeline.play.episode import hindsight_actions
from pipeline.stages import collect
from wam.envs.scene_files.geometry import SCENES
from wam.errors import WamError
from wam.tasks import DRAWER, LED, SWITCH

EPISODE = 36
FIRST_IDS = {"training": (100, 136, 200), "validation": (0,)}
TRAINING, VALIDATION = SPLITS

Frame = dict[str, np.ndarray]


def robot_obs(position: int) -> np.ndarray:
    """A smooth path on which roll jumps from pi to -pi and the gripper moves now and then."""
    state = np.zeros(15)
    state[:3] = 0.1 * np.sin(position / 10), -0.2, 0.5
    state[3:6] = (3.0 + 0.01 * position + np.pi) % (2 * np.pi) - np.pi, 0.0, 1.5
    state[6] = 0.04
    state[7:14] = -1.2, 1.0, 2.1, -2.3, -0.9, 1.6, 0.6
    state[14] = 1.0 if position % 20 < 10 else -1.0
    return state


def scene_obs(position: int) -> np.ndarray:
    """The drawer closes around a block, which only fits in scenes B and D, and the LED goes on."""
    state = np.zeros(24)
    state[DRAWER] = 0.2 * (1 - position / (EPISODE - 1))
    state[LED] = position >= EPISODE // 2
    state[6:9], state[12:15], state[18:21] = (0.05, -0.12, 0.46), (0.2, -0.1, 0.46), (0.34, 0, 0.36)
    return state


def make_frame(position: int, shift: float) -> Frame:
    state, following = robot_obs(position), robot_obs(position + 1)
    state[1] += shift
    following[1] += shift
    actions, rel_actions = hindsight_actions(state, following)
    frame = {key: np.zeros(shape, dtype) for key, (dtype, shape) in arrays.DOCUMENTED.items()}
    return frame | {
        "actions": actions,
        "rel_actions": rel_actions,
        "robot_obs": state,
        "scene_obs": scene_obs(position),
    }


@pytest.fixture(scope="session")
def conformant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: three training episodes and a validation episode of 36 frames, with every file."""
    root = tmp_path_factory.mktemp("conformant")
    for split, first_ids in FIRST_IDS.items():
        directory = root / split
        windows = []
        for first in first_ids:
            for position in range(EPISODE):
                on_disk.write_frame(directory, first + position, make_frame(position, 1e-5 * first))
            window = (first + 1, first + 35)
            windows.append(language.Annotation("close_drawer", "push the drawer shut", *window))
            windows.append(language.Annotation("turn_on_led", "press the button", *window))
        metadata.write_split(directory, [(first, first + EPISODE - 1) for first in first_ids])
        language.write_annotations(directory, windows)
        metadata.write_recording_config(
            directory,
            metadata.Recording(
                "D",
                "tiny",
                "light",
                {"static": (200, 200), "gripper": (84, 84)},
                use_nullspace=True,
            ),
        )
    metadata.write_scene_info(root / "training", {"calvin_scene_D": (0, 235)})
    return root


@pytest.fixture
def root(conformant: Path, tmp_path: Path) -> Path:
    """A copy to be damaged. Hard links: whoever writes a file replaces it."""
    return Path(shutil.copytree(conformant, tmp_path / "data", copy_function=os.link))


def checks(path: Path, frames: int | None = 4) -> set[tuple[str, str]]:
    return {(found.severity, found.check) for found in conformance.check(path, frames)}


@pytest.mark.parametrize("frames", [None, 200, 3])
def test_conformant_data_have_no_finding(conformant: Path, frames: int | None) -> None:
    assert conformance.check(conformant, frames) == []
    for split in SPLITS:
        assert conformance.check(conformant / split, frames) == []


@dataclass(frozen=True)
class Case:
    """A single defect and the finding that names it."""

    check: str
    severity: str
    damage: Callable[[Path], object]
    frames: int | None = 4
    """Ends of episodes are looked at on top of these."""


def change(
    edit: Callable[[Frame], object], split: str = TRAINING, frame_id: int = 100
) -> Callable[[Path], None]:
    """Damage one frame, the first of an episode if not told otherwise."""

    def damage(root: Path) -> None:
        path = on_disk.frame_path(root / split, frame_id)
        frame = dict(np.load(path))
        edit(frame)
        path.unlink()
        np.savez_compressed(path, allow_pickle=False, **frame)

    return damage


def change_all(edit: Callable[[Frame], object], *splits: str) -> Callable[[Path], None]:
    """Damage all frames of the splits."""

    def damage(root: Path) -> None:
        for split in splits:
            for frame_id, _, _ in on_disk.list_frames(root / split):
                change(edit, split, frame_id)(root)

    return damage


def set_element(name: str, place: int, value: float) -> Callable[[Path], None]:
    def edit(frame: Frame) -> None:
        frame[name][place] = value

    return change(edit)


def set_array(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return change(lambda frame: frame.update({name: array}))


def cast(frame: Frame) -> None:
    frame.update({name: frame[name].astype(np.float32) for name in ("actions", "robot_obs")})


def remove(name: str | Path, split: str = TRAINING) -> Callable[[Path], None]:
    return lambda root: (root / split / name).unlink()


def garble(name: str | Path) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / TRAINING / name).unlink()
        (root / TRAINING / name).write_bytes(b"\x93: {garbage")

    return damage


def table(*rows: tuple[int, int], split: str = TRAINING) -> Callable[[Path], None]:
    """Another episode table, with lengths that fit."""

    def damage(root: Path) -> None:
        lengths = [abs(last - first) + 1 if last != first - 1 else 0 for first, last in rows]
        small_files.write_npy(root / split / on_disk.EPISODE_TABLE, np.array(rows))
        small_files.write_npy(root / split / on_disk.EPISODE_LENGTHS, np.array(lengths))

    return damage


def lengths(*values: int) -> Callable[[Path], None]:
    return lambda root: small_files.write_npy(
        root / TRAINING / on_disk.EPISODE_LENGTHS, np.array(values)
    )


def edit_yaml(name: str | Path, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / TRAINING / name
        content = yaml.safe_load(path.read_text())
        edit(content)
        path.unlink()
        path.write_text(yaml.safe_dump(content))

    return damage


def record(split: str = TRAINING, **changes: Any) -> Callable[[Path], None]:
    """Another recording configuration."""

    def damage(root: Path) -> None:
        recording = metadata.read_recording_config(root / split)
        metadata.write_recording_config(root / split, replace(recording, **changes))

    return damage


def scene_info(**ranges: tuple[int, int]) -> Callable[[Path], None]:
    return lambda root: metadata.write_scene_info(
        root / TRAINING, {f"calvin_scene_{letter}": ids for letter, ids in ranges.items()}
    )


def annotate(task: str, start: int, stop: int) -> Callable[[Path], None]:
    """One more annotation."""

    def damage(root: Path) -> None:
        listed = language.read_annotation_file(root / TRAINING).annotations
        sentence = listed[0].sentence
        language.write_annotations(
            root / TRAINING, [*listed, language.Annotation(task, sentence, start, stop)]
        )

    return damage


def copy_frame(frame_id: int) -> Callable[[Path], None]:
    """A frame that no episode has."""
    return lambda root: shutil.copy(
        on_disk.frame_path(root / TRAINING, 100), on_disk.frame_path(root / TRAINING, frame_id)
    )


def truncate(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def shift_position(frame: Frame) -> None:
    """An action that leads elsewhere, and its relative form."""
    frame["actions"][0] += 0.005
    frame["rel_actions"] = values.relative(frame["actions"][None], frame["robot_obs"][None])[0]


def halve_relative(frame: Frame) -> None:
    frame["rel_actions"][:6] *= 0.5
    frame["rel_actions"][2] = 0.1


def all_gone(root: Path) -> None:
    for _, _, name in on_disk.list_frames(root / VALIDATION):
        (root / VALIDATION / name).unlink()


def reuse_frames(root: Path) -> None:
    """Validation also holds the first frames of training."""
    for frame_id in (100, 101, 102):
        os.link(*(on_disk.frame_path(root / split, frame_id) for split in SPLITS))
    table((0, 35), (100, 102), split=VALIDATION)(root)


def reuse_ids(root: Path) -> None:
    """Validation has its own frames under ids of training."""
    directory = root / VALIDATION
    for frame_id, _, name in on_disk.list_frames(directory):
        (directory / name).rename(on_disk.frame_path(directory, frame_id + 100))
    table((100, 135), split=VALIDATION)(root)
    moved = [
        replace(window, start=window.start + 100, stop=window.stop + 100)
        for window in language.read_annotations(directory)
    ]
    language.write_annotations(directory, moved)


def shrink(*splits: str) -> Callable[[Path], None]:
    """Images of another size, as the recording configuration says."""
    image = np.zeros((64, 64, 3), np.uint8)

    def damage(root: Path) -> None:
        change_all(lambda frame: frame.update(rgb_static=image), *splits)(root)
        for split in splits:
            record(split, cameras={"static": (64, 64), "gripper": (84, 84)})(root)

    return damage


def drop_renderer(content: Any) -> None:
    del content["env"]["use_egl"]


def old_prefix(content: Any) -> None:
    content["scene_obs"][0]["_target_"] = "calvin_models.utils.transforms.NormalizeVector"


CASES = {
    "no table": Case("episode-table-missing", "error", remove(on_disk.EPISODE_TABLE)),
    "damaged table": Case("episode-table-damaged", "error", garble(on_disk.EPISODE_TABLE)),
    "no lengths": Case("episode-lengths-missing", "warning", remove(on_disk.EPISODE_LENGTHS)),
    "damaged lengths": Case("episode-lengths-damaged", "warning", garble(on_disk.EPISODE_LENGTHS)),
    "no statistics": Case("statistics-missing", "warning", remove(metadata.STATISTICS)),
    "damaged statistics": Case("statistics-damaged", "warning", garble(metadata.STATISTICS)),
    "no annotations": Case("annotations-missing", "error", remove(language.ANNOTATIONS)),
    "no validation annotations": Case(
        "annotations-missing", "error", remove(language.ANNOTATIONS, VALIDATION)
    ),
    "damaged annotations": Case("annotations-damaged", "error", garble(language.ANNOTATIONS)),
    "no recording": Case("recording-config-missing", "warning", remove(metadata.RECORDING)),
    "damaged recording": Case("recording-config-damaged", "error", garble(metadata.RECORDING)),
    "no scene info": Case("scene-info-missing", "warning", remove(metadata.SCENE_INFO)),
    "damaged scene info": Case("scene-info-damaged", "warning", garble(metadata.SCENE_INFO)),
    "no frames": Case("no-frames", "error", all_gone),
    "digits": Case(
        "digits",
        "error",
        lambda root: on_disk.frame_path(root / TRAINING, 120).rename(
            on_disk.frame_path(root / TRAINING, 120, digits=6)
        ),
    ),
    "reversed": Case("episode-reversed", "error", table((135, 100), (136, 171), (200, 235))),
    "empty": Case("episode-reversed", "error", table((100, 135), (136, 171), (200, 235), (50, 49))),
    "overlap": Case("episode-overlap", "error", table((100, 140), (136, 171), (200, 235))),
    "other length": Case("episode-lengths", "warning", lengths(36, 35, 36)),
    "lengths too few": Case("episode-lengths", "warning", lengths(36, 36)),
    "missing frame": Case("missing-frames", "error", remove(on_disk.frame_name(120))),
    "missing last frame": Case("missing-frames", "error", remove(on_disk.frame_name(235))),
    "stray frame": Case("stray-frames", "warning", copy_frame(99)),
    "known stray frame": Case("known-stray-frames", "warning", copy_frame(37682)),
    "no renderer": Case(
        "renderer-unknown", "warning", edit_yaml(metadata.RECORDING, drop_renderer)
    ),
    "no scene": Case("scene-unknown", "warning", record(scene=None)),
    "null space": Case("null-space", "warning", record(use_nullspace=False)),
    "other camera": Case(
        "camera-size", "warning", record(cameras={"static": (100, 100), "gripper": (84, 84)})
    ),
    "no bounds": Case(
        "statistics-content",
        "warning",
        edit_yaml(metadata.STATISTICS, lambda content: content.pop("act_min_bound")),
    ),
    "old prefix": Case("statistics-prefix", "note", edit_yaml(metadata.STATISTICS, old_prefix)),
    "scene info against frames": Case("scene-info", "warning", scene_info(A=(0, 235))),
    "scene info against recording": Case("scene-info", "warning", scene_info(B=(0, 235))),
    "scene info too short": Case("scene-info-ranges", "warning", scene_info(D=(0, 220))),
    "scene info twice": Case("scene-info-ranges", "warning", scene_info(D=(0, 235), B=(0, 150))),
    "scene info name": Case("scene-info-names", "warning", scene_info(playroom=(0, 235))),
    "recording against frames": Case("recording-scene", "error", record(scene="A")),
    "truncated frame": Case("damaged-frames", "error", truncate, None),
    "directory in place of a frame": Case(
        "missing-frames", "error", lambda root: _replace_by_directory(root), None
    ),
    "pickled array": Case("damaged-frames", "error", lambda root: _pickle_frame(root), None),
    "no vector": Case("key-missing", "error", change(lambda frame: frame.pop("rel_actions"))),
    "no image": Case("key-missing", "error", change(lambda frame: frame.pop("rgb_gripper"))),
    "no depth": Case("key-differs", "warning", change(lambda frame: frame.pop("depth_static"))),
    "new key": Case("key-unexpected", "note", set_array("language", np.zeros(3))),
    "other depth": Case("unused-array", "note", set_array("depth_static", np.zeros((20, 20)))),
    "float image": Case("dtype", "error", set_array("rgb_static", np.zeros((200, 200, 3)))),
    "whole numbers": Case(
        "dtype", "error", set_array("robot_obs", robot_obs(0).round().astype(int))
    ),
    "one in float32": Case("dtype-differs", "warning", change(cast)),
    "all in float32": Case("float32", "note", change_all(cast, TRAINING)),
    "short vector": Case("shape", "error", set_array("robot_obs", np.zeros(14))),
    "grey image": Case("shape", "error", set_array("rgb_static", np.zeros((200, 200), np.uint8))),
    "tiny image": Case("shape", "error", set_array("rgb_static", np.zeros((9, 9, 3), np.uint8))),
    "one larger image": Case(
        "image-shapes-differ", "error", set_array("rgb_static", np.zeros((300, 300, 3), np.uint8))
    ),
    "other image size": Case("image-size", "note", shrink(*SPLITS)),
    "not a number": Case("non-finite", "error", set_element("robot_obs", 0, np.nan)),
    "infinite": Case("non-finite", "error", set_element("actions", 3, np.inf)),
    "out of range": Case("out-of-range", "error", set_element("scene_obs", 6, 200.0)),
    "switch too far": Case("unusual-values", "warning", set_element("scene_obs", SWITCH, 0.5)),
    "light nearly on": Case("light-rounding", "warning", set_element("scene_obs", LED, 0.9999)),
    "light nearly off": Case("light-rounding", "warning", set_element("scene_obs", LED, -1e-5)),
    "light half on": Case("light-state", "error", set_element("scene_obs", LED, 0.5)),
    "light normalised": Case("light-state", "error", set_element("scene_obs", LED, -1.0)),
    "gripper 0 in actions": Case("gripper-command", "error", set_element("actions", 6, 0.0)),
    "gripper 0 in rel_actions": Case("gripper-command", "error", set_element("rel_actions", 6, 0)),
    "gripper 0 in robot_obs": Case("gripper-command", "error", set_element("robot_obs", 14, 0.5)),
    "beyond a unit": Case("rel-action-range", "error", set_element("rel_actions", 2, 1.5)),
    "a wrong relative action": Case("rel-actions", "warning", change(halve_relative), None),
    "wrong relative actions": Case("rel-actions", "error", change_all(halve_relative, TRAINING)),
    "a wrong action": Case("next-pose", "warning", change(shift_position), None),
    "wrong actions": Case("next-pose", "error", change_all(shift_position, TRAINING)),
    "empty window": Case("annotation-empty", "error", annotate("open_drawer", 130, 130)),
    "repeated window": Case("annotation-duplicates", "warning", annotate("close_drawer", 101, 135)),
    "unknown task": Case("annotation-task", "warning", annotate("fly_away", 101, 135)),
    "short window": Case("annotation-length", "note", annotate("lift_red_block_table", 101, 120)),
    "window in a gap": Case("annotation-outside", "warning", annotate("stack_block", 172, 210)),
    "window over a border": Case(
        "annotation-outside", "warning", annotate("stack_block", 120, 160)
    ),
    "window of another task": Case(
        "annotation-oracle", "warning", annotate("open_drawer", 101, 135)
    ),
    "annotations of another model": Case(
        "annotations-folder", "warning", lambda root: _rename_annotations(root)
    ),
    "several sentences": Case("annotation-phrasings", "warning", lambda root: _rephrase(root)),
    "one split": Case("split-missing", "error", lambda root: shutil.rmtree(root / VALIDATION)),
    "frames in both splits": Case("shared-frames", "error", reuse_frames),
    "ids in both splits": Case("shared-ids", "note", reuse_ids),
    "other renderer": Case("renderers-differ", "warning", record(VALIDATION, renderer="egl")),
}


def _rename_annotations(root: Path) -> None:
    folder = root / TRAINING / language.ANNOTATIONS.parent
    folder.rename(folder.with_name("lang_clip_resnet50"))


def _rephrase(root: Path) -> None:
    path = root / TRAINING / language.ANNOTATIONS
    content = np.load(path, allow_pickle=True).item()
    content["language"]["ann"][0] = [content["language"]["ann"][0], "in other words"]
    path.unlink()
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def _replace_by_directory(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    path.unlink()
    path.mkdir()


def _pickle_frame(root: Path) -> None:
    path = on_disk.frame_path(root / TRAINING, 120)
    path.unlink()
    np.savez(path, actions=np.array({"an": "object"}, dtype=object))


@pytest.mark.parametrize("name", CASES)
def test_a_defect_is_named_and_nothing_else(root: Path, name: str) -> None:
    case = CASES[name]
    case.damage(root)
    assert checks(root, case.frames) == {(case.severity, case.check)}


def test_all_defects_are_reported_at_once(root: Path) -> None:
    """The severe ones first; a split on its own is judged like the root."""
    for name in ("truncated frame", "switch too far", "no statistics"):
        CASES[name].damage(root)
    remove(on_disk.frame_name(101))(root)
    found = conformance.check(root, None)
    assert [(finding.severity, finding.check, finding.file) for finding in found] == [
        ("error", "missing-frames", "training/episode_0000101.npz"),
        ("error", "damaged-frames", "training/episode_0000120.npz"),
        ("warning", "statistics-missing", "training/statistics.yaml"),
        ("warning", "unusual-values", "training/episode_0000100.npz"),
    ]
    alone = conformance.check(root / TRAINING, None)
    assert [finding.file for finding in alone][:2] == ["episode_0000101.npz", "episode_0000120.npz"]


def test_a_finding_counts_and_names_the_first(root: Path) -> None:
    for frame_id in (110, 111, 112):
        on_disk.frame_path(root / TRAINING, frame_id).unlink()
    (found,) = conformance.check(root)
    assert found.count == 3
    assert str(found).startswith(
        "training/episode_0000110.npz: frame missing inside an episode (and 2 more); expected"
    )


def test_frames_of_nested_episodes_are_not_stray(root: Path) -> None:
    table((100, 135), (110, 112), (136, 171), (200, 235))(root)
    found = {check for _, check in checks(root)}
    assert "episode-overlap" in found
    assert "stray-frames" not in found


def test_images_of_the_splits_differ(root: Path) -> None:
    shrink(VALIDATION)(root)
    assert checks(root) == {("warning", "split-images-differ"), ("note", "image-size")}


def test_folder_of_the_early_release(root: Path) -> None:
    assert checks(root.rename(root.with_name("task_A_A"))) == {("note", "folder-name")}


def test_reading_in_processes_gives_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate(root)
    set_element("robot_obs", 14, 0.0)(root)
    serial = conformance.check(root, None)
    monkeypatch.setattr(survey, "_PARALLEL_FRAMES", 100)
    monkeypatch.setattr(survey, "_CHUNK_FRAMES", 50)
    assert conformance.check(root, None) == serial


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    (tmp_path / TRAINING).mkdir()
    with pytest.raises(WamError, match="no CALVIN frames"):
        conformance.check(tmp_path)


def with_episodes(split: Split, *rows: tuple[int, int], **changes: Any) -> Split:
    """``split`` as if it had these episodes."""
    ids = np.concatenate([np.arange(first, last + 1) for first, last in rows])
    return replace(split, ids=ids, digits=np.full(len(ids), 7), table=np.array(rows), **changes)


@pytest.fixture(scope="module")
def training(conformant: Path) -> Split:
    return conformance.read_survey(conformant, 3).splits[TRAINING]


D_TRAINING = ((53819, 219634), (244285, 399945), (420499, 611098))


def test_release_is_recognised_and_its_scene_known(training: Split) -> None:
    """CALVIN contract 1.1; scene A for D is the known error of mees/calvin#40."""
    right = with_episodes(training, *D_TRAINING, scene_info={"calvin_scene_D": (0, 611098)})
    release = scenes.release_of(right)
    assert release is not None
    assert release.name == "task_D_D"
    assert not list(scenes.scene_info(right))
    wrong = replace(right, scene_info={"calvin_scene_A": (0, 611098)}, recording=None)
    (found,) = scenes.scene_info(wrong)
    assert found.expected == "scene D there, as in the current task_D_D"
    assert scenes.release_of(training) is None


def test_ranges_of_several_scenes(training: Split) -> None:
    ranges = {"B": (0, 598909), "C": (598910, 1191338), "A": (1191339, 1795044)}
    info = {f"calvin_scene_{letter}": ids for letter, ids in ranges.items()}
    right = with_episodes(training, *ranges.values(), scene_info=info)
    assert not list(scenes.scene_info(right))
    assert not list(scenes.scene_ranges(right))
    assert not list(scenes.recording_scene(right)), "one configuration, three recordings"
    swapped = {**info, "calvin_scene_B": ranges["A"], "calvin_scene_A": ranges["B"]}
    (found,) = scenes.scene_info(replace(right, scene_info=swapped))
    assert found.check == "scene-info"


def test_more_windows_than_calvin_annotated(training: Split) -> None:
    """150 per task in the 512,077 frames of D, up to three more by a race (contract 1.5)."""

    def annotated(count: int) -> Split:
        windows = [language.Annotation("open_drawer", "x", at, at + 64) for at in range(count)]
        return with_episodes(training, *D_TRAINING, annotations=windows)

    assert not list(annotations.task_counts(annotated(153)))
    (found,) = annotations.task_counts(annotated(154))
    assert (found.severity, found.expected) == ("note", "at most 150 per task in 512,077 frames")


@pytest.mark.parametrize(
    ("block", "possible"),
    [
        ((0.10, -0.10, 0.46), "ABCD"),
        ((0.34, 0.00, 0.36), "BD"),
        ((-0.06, 0.00, 0.36), "AC"),
        ((0.30, 0.10, 0.461), "BC"),
        ((-0.30, 0.10, 0.461), "AD"),
    ],
    ids=["table", "drawer right", "drawer left", "shelf right", "shelf left"],
)
def test_places_of_a_block_rule_scenes_out(
    block: tuple[float, float, float], possible: str
) -> None:
    """The shelf and the drawer of CALVIN contract 3.2."""
    state = np.zeros((1, 24))
    state[:, 6:9] = state[:, 12:15] = state[:, 18:21] = block
    fits = [name for name, scene in SCENES.items() if not scenes.impossible(state, scene).any()]
    assert "".join(fits) == possible


def test_the_door_rules_scenes_out() -> None:
    state = np.zeros((1, 24))
    state[:, 6:9] = state[:, 12:15] = state[:, 18:21] = 0.1, -0.1, 0.46
    state[:, 0] = 0.30
    fits = [name for name, scene in SCENES.items() if not scenes.impossible(state, scene).any()]
    assert fits == ["B"]


def test_scene_of_a_configuration_that_spells_it_out(root: Path) -> None:
    """CALVIN's merged configuration holds the scene's content, not its name."""
    path = root / TRAINING / metadata.RECORDING
    content = yaml.safe_load(path.read_text())
    table_file = {"file": "calvin_table_D/urdf/calvin_table_D.urdf"}
    content["scene"] = {"objects": {"fixed_objects": {"table": table_file}}}
    path.unlink()
    path.write_text(yaml.safe_dump(content))
    assert metadata.read_recording_config(root / TRAINING).scene == "D"
    assert checks(root) == set()


def test_our_own_recordings_are_conformant(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    ci = load_profile("ci")
    small = replace(ci.collect, training_frames=120, validation_frames=60, episode_frames=60)
    layout = Layout(tmp_path)
    collect.run(replace(ci, collect=small, env=replace(ci.env, workers=1)), layout)
    found = conformance.check(layout.raw, None)
    assert [str(finding) for finding in found if finding.severity != "note"] == []
