"""Every defect of a data set is found under its own name, and nothing else is."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import conformance, language, metadata, on_disk
from pipeline.calvin.conformance.table import TABLE
from tests.pipeline.calvin.conformant import (
    TRAINING,
    VALIDATION,
    all_gone,
    annotate,
    cast,
    change,
    change_all,
    checks,
    copy_frame,
    drop_renderer,
    edit_yaml,
    garble,
    halve_relative,
    lengths,
    old_prefix,
    pickle_frame,
    record,
    remove,
    rename_annotations,
    rephrase,
    replace_by_directory,
    reuse_frames,
    reuse_ids,
    robot_obs,
    scene_info,
    set_array,
    set_element,
    shift_position,
    shrink,
    table,
    truncate,
)
from wam.tasks import LED, SWITCH


@dataclass(frozen=True)
class Case:
    """A single defect and the finding that names it."""

    check: str
    severity: str
    damage: Callable[[Path], object]
    frames: int | None = 4
    """Ends of episodes are looked at on top of these."""


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
    "directory in place of a frame": Case("missing-frames", "error", replace_by_directory, None),
    "pickled array": Case("damaged-frames", "error", pickle_frame, None),
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
    "annotations of another model": Case("annotations-folder", "warning", rename_annotations),
    "several sentences": Case("annotation-phrasings", "warning", rephrase),
    "one split": Case("split-missing", "error", lambda root: shutil.rmtree(root / VALIDATION)),
    "frames in both splits": Case("shared-frames", "error", reuse_frames),
    "ids in both splits": Case("shared-ids", "note", reuse_ids),
    "other renderer": Case("renderers-differ", "warning", record(VALIDATION, renderer="egl")),
}


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


def test_every_finding_of_the_table_is_tested() -> None:
    """These have tests of their own."""
    elsewhere = {"annotation-counts", "folder-name", "split-images-differ"}
    assert {case.check for case in CASES.values()} | elsewhere == set(TABLE)
