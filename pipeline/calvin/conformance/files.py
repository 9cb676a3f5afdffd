"""The files of a split: names, episode table, gaps, recording configuration, statistics.

Source: docs/calvin.md 1.1, 1.2, 1.6 to 1.8.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.calvin import metadata, on_disk
from pipeline.calvin.conformance.survey import SplitSurvey
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.fields import VECTORS
from pipeline.calvin.finding import Finding
from pipeline.untrusted.text import shortened
from wam.config import ACTION_SIZE

KNOWN_STRAY = (37682, 53818, 244284, 420498)
"""Frames of ABCD's validation that also lie in its training directory (mees/calvin#40)."""


def files(split: SplitSurvey) -> Iterator[Finding]:
    """Missing and damaged files beside the frames, and the names of the frames' own."""
    for check, path, problem in split.unreadable:
        yield finding(check, split.file(path), problem)
    widths, counts = np.unique(split.digits, return_counts=True)
    if not len(widths):
        yield finding("no-frames", split.file("."), "no frame file")
    elif len(widths) > 1:
        usual, odd = widths[counts.argmax()], widths[counts.argmin()]
        rare = split.ids[split.digits == odd]
        yield split.of_frames("digits", rare, f"an id of {odd} digits", usual=usual)


def episode_table(split: SplitSurvey) -> Iterator[Finding]:
    """Rows that are reversed, empty, negative or overlap, and ``ep_lens`` against them."""
    table, lengths = split.table, split.lengths
    if table is None:
        return
    file = split.file(on_disk.EPISODE_TABLE)
    bad = table[(table[:, 1] < table[:, 0]) | (table[:, 0] < 0)]
    if len(bad):
        yield finding("episode-reversed", file, f"episode {bad[0].tolist()}", len(bad))
    overlaps = np.flatnonzero(split.episodes[1:, 0] <= split.episodes[:-1, 1])
    if len(overlaps):
        first, second = split.episodes[overlaps[0] :][:2].tolist()
        found = f"episodes {first} and {second} overlap"
        yield finding("episode-overlap", file, found, len(overlaps))
    if lengths is None:
        return
    step = table[:, 1] - table[:, 0]
    # A reversed row counts as turned round, an empty one as empty: both are reported by themselves.
    wanted = np.where(step == -1, 0, np.abs(step) + 1)
    file = split.file(on_disk.EPISODE_LENGTHS)
    if len(lengths) != len(wanted):
        expected = f"{len(wanted)}, one per episode of {on_disk.EPISODE_TABLE}"
        yield finding("episode-lengths", file, f"{len(lengths)} lengths", expected=expected)
    elif len(differs := np.flatnonzero(lengths != wanted)):
        at = differs[0]
        found = f"{lengths[at]} frames in episode {table[at].tolist()}"
        yield finding("episode-lengths", file, found, len(differs), expected=wanted[at])


def missing_frames(split: SplitSurvey) -> Iterator[Finding]:
    """Frames inside episodes without a file."""
    if not len(split.ids):
        return
    lost = [on_disk.missing_frames(split.ids, *row) for row in split.episodes.tolist()]
    count = sum(number for number, _ in lost)
    if count:
        file = split.frame_file(next(first for number, first in lost if number))
        yield finding("missing-frames", file, "frame missing inside an episode", count)


def stray_frames(split: SplitSurvey) -> Iterator[Finding]:
    """Frame files that belong to no episode."""
    if not len(split.episodes):
        return
    stray = split.ids[split.episode_of(split.ids) < 0]
    known = stray[np.isin(stray, KNOWN_STRAY) & (split.name == "training")]
    unknown = np.setdiff1d(stray, known)
    for check, ids in (("known-stray-frames", known), ("stray-frames", unknown)):
        if len(ids):
            yield split.of_frames(check, ids, "frame belongs to no episode")


def recording(split: SplitSurvey) -> Iterator[Finding]:
    """What the recording configuration should tell."""
    told = split.recording
    if told is None:
        return
    for check, applies, found in (
        ("scene-unknown", told.scene is None, "scene does not tell which"),
        ("renderer-unknown", told.renderer is None, "env.use_egl is missing or no boolean"),
        ("null-space", told.use_nullspace is False, "robot.use_nullspace is false"),
    ):
        if applies:
            yield finding(check, split.file(metadata.RECORDING), found)


def statistics(split: SplitSurvey) -> Iterator[Finding]:
    """Keys, lengths and class names of ``statistics.yaml``."""
    content = split.statistics
    if content is None:
        return
    file = split.file(metadata.STATISTICS)
    transforms = {key: _mappings(content.get(key)) for key in ("robot_obs", "scene_obs")}
    problems = list(_statistics_problems(content, transforms))
    if problems:
        yield finding("statistics-content", file, problems[0], len(problems))
        return
    targets = {shortened(str(found[0].get("_target_"))) for found in transforms.values()}
    foreign = sorted(name for name in targets if not name.startswith("calvin_agent."))
    if foreign:
        yield finding("statistics-prefix", file, f"_target_ is {foreign[0]}", len(foreign))


def _statistics_problems(
    content: dict[str, Any], transforms: dict[str, list[dict[str, Any]]]
) -> Iterator[str]:
    for key, found in transforms.items():
        if len(found) != 1:
            yield f"{key} has {len(found)} transforms"
            continue
        for name in ("mean", "std"):
            if not _has_length(found[0].get(name), VECTORS[key].length):
                yield f"{name} of {key} does not have {VECTORS[key].length} elements"
    for key in ("act_min_bound", "act_max_bound"):
        if not _has_length(content.get(key), ACTION_SIZE):
            yield f"{key} does not have {ACTION_SIZE} elements"


def _mappings(listed: Any) -> list[dict[str, Any]]:
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _has_length(value: Any, size: int) -> bool:
    return isinstance(value, list) and len(value) == size
