"""Is a data set what CALVIN's format promises? Every defect by name, not only the first.

A check is a pure function of the survey: it yields findings and touches no file. What they say is
in :mod:`pipeline.calvin.conformance.table`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.calvin.conformance import annotations, arrays, files, scenes, splits, values
from pipeline.calvin.conformance.facts import describe
from pipeline.calvin.conformance.survey import SAMPLE, SplitSurvey, Survey, find_splits, read_survey
from pipeline.calvin.finding import SEVERITIES, Finding

SPLIT_CHECKS: tuple[Callable[[SplitSurvey], Iterator[Finding]], ...] = (
    files.files,
    files.episode_table,
    files.missing_frames,
    files.stray_frames,
    files.recording,
    files.statistics,
    arrays.arrays,
    arrays.camera_sizes,
    values.values,
    values.encodings,
    values.rel_actions,
    values.next_poses,
    scenes.scene_ranges,
    scenes.scene_info,
    scenes.recording_scene,
    annotations.annotations,
    annotations.oracle,
    annotations.task_counts,
)
SURVEY_CHECKS: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
    splits.missing_split,
    splits.shared_frames,
    splits.recordings,
    splits.folder_name,
)


def check(root: Path, frames: int | None = SAMPLE, annotations: str | None = None) -> list[Finding]:
    """All findings on the data set at ``root``, the severe ones first.

    ``frames`` and ``annotations`` as in :func:`read_survey`. Raises WamError if no CALVIN frames
    are there.
    """
    return judge(read_survey(root, frames, annotations))


def judge(survey: Survey) -> list[Finding]:
    """All findings on a data set that has been read, the severe ones first."""
    found = [one for split in survey.splits.values() for run in SPLIT_CHECKS for one in run(split)]
    found += [one for run in SURVEY_CHECKS for one in run(survey)]
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


__all__ = ["SAMPLE", "check", "describe", "find_splits", "judge", "read_survey"]
