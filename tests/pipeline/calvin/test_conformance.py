"""What a check of a whole data set says, and in which order."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.layout import SPLITS, Layout
from pipeline.calvin import conformance, on_disk
from pipeline.calvin.conformance import survey
from pipeline.params import load_profile
from pipeline.stages import collect
from tests.pipeline.calvin.conformant import (
    TRAINING,
    VALIDATION,
    checks,
    set_element,
    shrink,
    table,
    truncate,
)
from wam.errors import WamError


@pytest.mark.parametrize("frames", [None, 200, 3])
def test_conformant_data_have_no_finding(conformant: Path, frames: int | None) -> None:
    assert conformance.check(conformant, frames) == []
    for split in SPLITS:
        assert conformance.check(conformant / split, frames) == []


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


def test_our_own_recordings_are_conformant(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    ci = load_profile("ci")
    small = replace(ci.collect, training_frames=120, validation_frames=60, episode_frames=60)
    layout = Layout(tmp_path)
    collect.run(replace(ci, collect=small, env=replace(ci.env, workers=1)), layout)
    found = conformance.check(layout.raw, None)
    assert [str(finding) for finding in found if finding.severity != "note"] == []
