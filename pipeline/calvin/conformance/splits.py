"""Training beside validation, and the name of their folder. Source: docs/calvin.md 1.1."""

from collections.abc import Iterator

import numpy as np

from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import metadata
from pipeline.calvin.conformance.scenes import declared_scenes
from pipeline.calvin.conformance.survey import Survey
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.fields import CAMERAS
from pipeline.calvin.finding import Finding


def missing_split(survey: Survey) -> Iterator[Finding]:
    """A root with one of the splits only."""
    is_root = any(split.prefix for split in survey.splits.values())
    for name in set(SPLITS) - set(survey.splits) if is_root else ():
        yield finding("split-missing", f"{name}/", "not found")


def shared_frames(survey: Survey) -> Iterator[Finding]:
    """Frames that are trained on and validated on, told from ids that mean two frames."""
    if not len(survey.shared):
        return
    first, second = survey.splits.values()
    rows = np.stack([split.sample.at(survey.shared) for split in (first, second)])
    compared = (rows >= 0).all(axis=0)
    states = [
        np.hstack([split.sample.vectors[name] for name in ("robot_obs", "scene_obs")])[at]
        for split, at in zip((first, second), rows[:, compared], strict=True)
    ]
    equal = (states[0] == states[1]).all(axis=1)
    ids = survey.shared[compared]
    if equal.any():
        found = "the same frame in episodes of both splits"
        yield first.of_frames("shared-frames", ids[equal], found)
    elif len(ids):
        file = first.frame_file(int(ids[0]))
        found = "an id that both splits use, for different frames"
        yield finding("shared-ids", file, found, len(survey.shared))


def recordings(survey: Survey) -> Iterator[Finding]:
    """Images of the two splits that differ in renderer or size."""
    if len(survey.splits) < 2:
        return
    first, second = survey.splits.values()
    told, other = (split.recording and split.recording.renderer for split in (first, second))
    if told and other and told != other:
        file = second.file(metadata.RECORDING)
        yield finding(
            "renderers-differ", file, f"renderer {other}", expected=told, other=first.name
        )
    for camera in CAMERAS:
        usual, odd = (split.sample.arrays.get(camera) for split in (first, second))
        if usual and odd and usual != odd:
            file, found = second.file("."), f"{camera} is {odd}"
            yield finding("split-images-differ", file, found, expected=usual, other=first.name)


def folder_name(survey: Survey) -> Iterator[Finding]:
    """The zip of D that unpacks into a folder named after A."""
    scenes = {scene for split in survey.splits.values() for scene in declared_scenes(split)}
    if survey.root.resolve().name == "task_A_A" and scenes == {"D"}:
        yield finding("folder-name", ".", "folder task_A_A")
