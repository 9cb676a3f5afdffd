"""The files of a split: names, episode table, gaps, recording configuration, statistics.

Source: CALVIN contract 1.1, 1.2, 1.6 to 1.8.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.calvin import language, metadata, on_disk
from pipeline.calvin.conformance.survey import Loaded, Split
from pipeline.calvin.fields import ROBOT_OBS_SIZE, SCENE_OBS_SIZE
from pipeline.calvin.finding import Finding, Severity
from pipeline.untrusted.text import shortened
from wam.config import ACTION_SIZE
from wam.errors import WamError

KNOWN_STRAY = (37682, 53818, 244284, 420498)
"""Frames of ABCD's validation that also lie in its training directory (mees/calvin#40)."""

_TRANSFORMED = {"robot_obs": ROBOT_OBS_SIZE, "scene_obs": SCENE_OBS_SIZE}
_TRANSFORM_PACKAGE = "calvin_agent."


def small_files(split: Split) -> Iterator[Finding]:
    """Missing and damaged files beside the frames."""
    for name, path, content, severity, use in _small_files(split):
        if content is None:
            yield Finding(
                check=f"{name}-missing",
                severity=severity,
                file=split.file(path),
                found="not found",
                expected="a file of every CALVIN split",
                advice=use,
            )
        elif isinstance(content, WamError):
            yield Finding(
                check=f"{name}-damaged",
                severity=severity,
                file=split.file(path),
                found=str(content).removeprefix(f"{split.directory / path}: "),
                expected="a readable file",
                advice=f"Restore it. {use}",
            )


def _small_files(split: Split) -> Iterator[tuple[str, str | Path, Loaded[Any], Severity, str]]:
    """Check, path, content, severity and use of every file that the split should have."""
    yield (
        "episode-table",
        on_disk.EPISODE_TABLE,
        split.table,
        "error",
        "Nothing else tells where episodes begin and end",
    )
    yield (
        "episode-lengths",
        on_disk.EPISODE_LENGTHS,
        split.lengths,
        "warning",
        f"Not used here; official loaders need it: last - first + 1 of {on_disk.EPISODE_TABLE}",
    )
    yield (
        "statistics",
        metadata.STATISTICS,
        split.statistics,
        "warning",
        "Not used here; official loaders normalise with it",
    )
    yield (
        "recording-config",
        metadata.RECORDING,
        split.recording,
        "warning" if split.recording is None else "error",
        "Without it the scene and the renderer of the images are unknown",
    )
    yield (
        "annotations",
        language.ANNOTATIONS,
        split.annotations,
        "error",
        "Demonstrations and held-out starts come from it. Some zips lack it in validation "
        "(mees/calvin#115, #121); task_D_D's validation has the same frames as that of every split",
    )
    if split.name == "training" or split.scene_info is not None:
        yield (
            "scene-info",
            metadata.SCENE_INFO,
            split.scene_info,
            "warning",
            "It tells the scene of every episode where a split has several",
        )


def frame_names(split: Split) -> Iterator[Finding]:
    """Frame files at all, and as many digits in every name."""
    if not len(split.ids):
        yield Finding(
            check="no-frames",
            severity="error",
            file=split.file("."),
            found="no frame file",
            expected="episode_0000000.npz and so on, one per frame",
            advice="Unpack the data set again",
        )
        return
    widths, counts = np.unique(split.digits, return_counts=True)
    if len(widths) > 1:
        rare = split.ids[split.digits == widths[counts.argmin()]]
        yield Finding(
            check="digits",
            severity="error",
            file=split.frame_file(int(rare[0])),
            found=f"an id of {widths[counts.argmin()]} digits",
            count=len(rare),
            expected=f"{widths[counts.argmax()]}, as in the other names",
            advice="Rename the files, or remove what does not belong to this data set",
        )


def episode_rows(split: Split) -> Iterator[Finding]:
    """Rows of the episode table that are reversed, empty, negative or overlap."""
    if not isinstance(split.table, np.ndarray):
        return
    advice = f"Correct or restore {on_disk.EPISODE_TABLE}; the stage 'index' refuses it"
    bad = split.table[(split.table[:, 1] < split.table[:, 0]) | (split.table[:, 0] < 0)]
    if len(bad):
        yield Finding(
            check="episode-reversed",
            severity="error",
            file=split.file(on_disk.EPISODE_TABLE),
            found=f"episode {bad[0].tolist()}",
            count=len(bad),
            expected="the first and the last frame id, both inclusive, in this order",
            advice=advice,
        )
    overlap = split.episodes[1:, 0] <= split.episodes[:-1, 1]
    if overlap.any():
        at = int(overlap.argmax())
        pair = split.episodes[at : at + 2].tolist()
        yield Finding(
            check="episode-overlap",
            severity="error",
            file=split.file(on_disk.EPISODE_TABLE),
            found=f"episodes {pair[0]} and {pair[1]} overlap",
            count=int(overlap.sum()),
            expected="every frame in one episode",
            advice=advice,
        )


def episode_lengths(split: Split) -> Iterator[Finding]:
    """``ep_lens`` against the episode table."""
    if not isinstance(split.table, np.ndarray) or not isinstance(split.lengths, np.ndarray):
        return
    step = split.table[:, 1] - split.table[:, 0]
    # A reversed row counts as turned round, an empty one as empty: both are reported by themselves.
    wanted = np.where(step == -1, 0, np.abs(step) + 1)
    file = split.file(on_disk.EPISODE_LENGTHS)
    advice = f"Not used here: {on_disk.EPISODE_TABLE} counts. Official loaders may read the other"
    if len(split.lengths) != len(wanted):
        yield Finding(
            check="episode-lengths",
            severity="warning",
            file=file,
            found=f"{len(split.lengths)} lengths",
            expected=f"{len(wanted)}, one per episode of {on_disk.EPISODE_TABLE}",
            advice=advice,
        )
        return
    differs = np.flatnonzero(split.lengths != wanted)
    if len(differs):
        at = differs[0]
        yield Finding(
            check="episode-lengths",
            severity="warning",
            file=file,
            found=f"{split.lengths[at]} frames in episode {split.table[at].tolist()}",
            count=len(differs),
            expected=f"{wanted[at]}",
            advice=advice,
        )


def missing_frames(split: Split) -> Iterator[Finding]:
    """Frames inside episodes without a file."""
    if not len(split.ids):
        return
    first_missing, num_missing = -1, 0
    for first, last in split.episodes.tolist():
        # By position and not by a list of all ids: a damaged table may claim billions of frames.
        start, stop = np.searchsorted(split.ids, (first, last + 1))
        present = np.unique(split.ids[start:stop])
        lost = last - first + 1 - len(present)
        if lost and not num_missing:
            gap = np.flatnonzero(present != first + np.arange(len(present)))
            first_missing = first + (int(gap[0]) if len(gap) else len(present))
        num_missing += lost
    if num_missing:
        yield Finding(
            check="missing-frames",
            severity="error",
            file=split.frame_file(first_missing),
            found="frame missing inside an episode",
            count=num_missing,
            expected=f"a file for every frame of {on_disk.EPISODE_TABLE}",
            advice="Restore the files, or set convert.on_error to skip-episode",
        )


def stray_frames(split: Split) -> Iterator[Finding]:
    """Frame files that belong to no episode."""
    if not len(split.episodes):
        return
    stray = split.ids[split.episode_of(split.ids) < 0]
    known = stray[np.isin(stray, KNOWN_STRAY)] if split.name == "training" else stray[:0]
    unknown = np.setdiff1d(stray, known)
    for ids, check, advice in (
        (known, "known-stray-frames", "A known quirk of ABCD (mees/calvin#40): harmless, ignored"),
        (unknown, "stray-frames", "They are ignored; look whether the episode table is complete"),
    ):
        if len(ids):
            yield Finding(
                check=check,
                severity="warning",
                file=split.frame_file(int(ids[0])),
                found="frame belongs to no episode",
                count=len(ids),
                expected=f"every frame in an episode of {on_disk.EPISODE_TABLE}",
                advice=advice,
            )


def recording(split: Split) -> Iterator[Finding]:
    """What the recording configuration should tell."""
    if not isinstance(split.recording, metadata.Recording):
        return
    file = split.file(metadata.RECORDING)
    if split.recording.scene is None:
        yield Finding(
            check="scene-unknown",
            severity="warning",
            file=file,
            found="scene does not tell which",
            expected="calvin_scene_A to D, or a table of one of them",
            advice="Evaluate policies in the scene of their frames",
        )
    if split.recording.renderer is None:
        yield Finding(
            check="renderer-unknown",
            severity="warning",
            file=file,
            found="env.use_egl is missing or no boolean",
            expected="true (EGL) or false (TinyRenderer)",
            advice="Policies fail on images of the other renderer: compare the images",
        )
    if split.recording.use_nullspace is False:
        yield Finding(
            check="null-space",
            severity="warning",
            file=file,
            found="robot.use_nullspace is false",
            expected="true",
            advice="A known error of data sets from before 2022-02-07. Not used here; correct it "
            "before building CALVIN's own simulator from this file",
        )


def statistics(split: Split) -> Iterator[Finding]:
    """Keys, lengths and class names of ``statistics.yaml``."""
    if not isinstance(split.statistics, dict):
        return
    problems = list(_statistics_problems(split.statistics))
    if problems:
        yield Finding(
            check="statistics-content",
            severity="warning",
            file=split.file(metadata.STATISTICS),
            found=problems[0],
            count=len(problems),
            expected="one NormalizeVector (mean, std) of robot_obs and of scene_obs, and bounds of "
            "actions",
            advice="Not used here; official loaders normalise with it",
        )
    targets = {
        shortened(str(transform.get("_target_")))
        for key in _TRANSFORMED
        for transform in _transforms(split.statistics, key)
    }
    foreign = sorted(name for name in targets if not name.startswith(_TRANSFORM_PACKAGE))
    if foreign and not problems:
        yield Finding(
            check="statistics-prefix",
            severity="note",
            file=split.file(metadata.STATISTICS),
            found=f"_target_ is {foreign[0]}",
            count=len(foreign),
            expected=f"a name in {_TRANSFORM_PACKAGE}",
            advice="Not used here; official loaders rewrite the older calvin_models.",
        )


def _statistics_problems(content: dict[str, Any]) -> Iterator[str]:
    for key, size in _TRANSFORMED.items():
        transforms = _transforms(content, key)
        if len(transforms) != 1:
            yield f"{key} has {len(transforms)} transforms"
            continue
        for name in ("mean", "std"):
            if not _has_length(transforms[0].get(name), size):
                yield f"{name} of {key} does not have {size} elements"
    for key in ("act_min_bound", "act_max_bound"):
        if not _has_length(content.get(key), ACTION_SIZE):
            yield f"{key} does not have {ACTION_SIZE} elements"


def _transforms(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    listed = content.get(key)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _has_length(value: Any, size: int) -> bool:
    return isinstance(value, list) and len(value) == size
