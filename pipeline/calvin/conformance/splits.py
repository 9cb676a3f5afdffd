"""Training beside validation, and the name of their folder. Source: CALVIN contract 1.1."""

from collections.abc import Iterator

import numpy as np

from pipeline.artifacts.layout import SPLITS
from pipeline.calvin import metadata
from pipeline.calvin.conformance.scenes import declared_scenes
from pipeline.calvin.conformance.survey import Survey
from pipeline.calvin.fields import CAMERAS
from pipeline.calvin.finding import Finding


def missing_split(survey: Survey) -> Iterator[Finding]:
    """A root with one of the splits only."""
    for name in set(SPLITS) - set(survey.splits) if survey.is_root else ():
        yield Finding(
            check="split-missing",
            severity="error",
            file=f"{name}/",
            found="not found",
            expected=f"{' and '.join(SPLITS)} side by side",
            advice="The stages need both",
        )


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
        yield Finding(
            check="shared-frames",
            severity="error",
            file=first.frame_file(int(ids[equal.argmax()])),
            found="the same frame in episodes of both splits",
            count=int(equal.sum()),
            expected="validation without frames that are trained on",
            advice="Correct the episode tables; the results would be too good",
        )
    elif len(ids):
        yield Finding(
            check="shared-ids",
            severity="note",
            file=first.frame_file(int(ids[0])),
            found="an id that both splits use, for different frames",
            count=len(survey.shared),
            expected="one frame per id",
            advice="As in ABC, whose validation keeps D's ids. Read apart here",
        )


def recordings(survey: Survey) -> Iterator[Finding]:
    """Images of the two splits that differ in renderer or size."""
    if len(survey.splits) < 2:
        return
    first, second = survey.splits.values()
    renderers = [
        split.recording.renderer if isinstance(split.recording, metadata.Recording) else None
        for split in (first, second)
    ]
    if None not in renderers and renderers[0] != renderers[1]:
        yield Finding(
            check="renderers-differ",
            severity="warning",
            file=second.file(metadata.RECORDING),
            found=f"renderer {renderers[1]}",
            expected=f"{renderers[0]}, as in {first.name}",
            advice="Policies fail on images of the other renderer",
        )
    for camera in CAMERAS:
        shapes = [split.sample.arrays.get(camera) for split in (first, second)]
        if None not in shapes and shapes[0] != shapes[1]:
            yield Finding(
                check="split-images-differ",
                severity="warning",
                file=second.file("."),
                found=f"{camera} is {shapes[1]}",
                expected=f"{shapes[0]}, as in {first.name}",
                advice="Resized alike here, but sharpness may differ",
            )


def folder_name(survey: Survey) -> Iterator[Finding]:
    """The zip of D that unpacks into a folder named after A."""
    scenes = {scene for split in survey.splits.values() for scene in declared_scenes(split)}
    if survey.root.resolve().name == "task_A_A" and scenes == {"D"}:
        yield Finding(
            check="folder-name",
            severity="note",
            file=".",
            found="folder task_A_A",
            expected="task_D_D for frames of scene D",
            advice="Scenes A and D were swapped in an early release; any name will do here",
        )
