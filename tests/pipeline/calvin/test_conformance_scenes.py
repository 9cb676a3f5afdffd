"""Published splits, their scenes and their windows, told from ids and states."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.calvin import conformance, language, metadata
from pipeline.calvin.conformance import annotations, scenes
from pipeline.calvin.conformance.survey import SplitSurvey
from tests.pipeline.calvin.conformant import TRAINING, checks
from wam.envs.scene_files.geometry import SCENES


def with_episodes(split: SplitSurvey, *rows: tuple[int, int], **changes: Any) -> SplitSurvey:
    """``split`` as if it had these episodes."""
    ids = np.concatenate([np.arange(first, last + 1) for first, last in rows])
    return replace(split, ids=ids, digits=np.full(len(ids), 7), table=np.array(rows), **changes)


@pytest.fixture(scope="module")
def training(conformant: Path) -> SplitSurvey:
    return conformance.read_survey(conformant, 3).splits[TRAINING]


D_TRAINING = ((53819, 219634), (244285, 399945), (420499, 611098))


def test_release_is_recognised_and_its_scene_known(training: SplitSurvey) -> None:
    """docs/calvin.md 1.1; scene A for D is the known error of mees/calvin#40."""
    right = with_episodes(training, *D_TRAINING, scene_info={"calvin_scene_D": (0, 611098)})
    release = scenes.release_of(right)
    assert release is not None
    assert release.name == "task_D_D"
    assert not list(scenes.scene_info(right))
    wrong = replace(right, scene_info={"calvin_scene_A": (0, 611098)}, recording=None)
    (found,) = scenes.scene_info(wrong)
    assert found.expected == "scene D there, as in the current task_D_D"
    assert scenes.release_of(training) is None


def test_ranges_of_several_scenes(training: SplitSurvey) -> None:
    ranges = {"B": (0, 598909), "C": (598910, 1191338), "A": (1191339, 1795044)}
    info = {f"calvin_scene_{letter}": ids for letter, ids in ranges.items()}
    right = with_episodes(training, *ranges.values(), scene_info=info)
    assert not list(scenes.scene_info(right))
    assert not list(scenes.scene_ranges(right))
    assert not list(scenes.recording_scene(right)), "one configuration, three recordings"
    swapped = {**info, "calvin_scene_B": ranges["A"], "calvin_scene_A": ranges["B"]}
    (found,) = scenes.scene_info(replace(right, scene_info=swapped))
    assert found.check == "scene-info"


def test_more_windows_than_calvin_annotated(training: SplitSurvey) -> None:
    """150 per task in the 512,077 frames of D, up to three more by a race (docs/calvin.md 1.5)."""

    def annotated(count: int) -> SplitSurvey:
        windows = [language.Annotation("open_drawer", "x", at, at + 64) for at in range(count)]
        path = training.directory / language.ANNOTATIONS
        file = language.AnnotationFile(path, windows, num_rephrased=0)
        return with_episodes(training, *D_TRAINING, annotations=file)

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
    """The shelf and the drawer of docs/calvin.md 3.2."""
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
