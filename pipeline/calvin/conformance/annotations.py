"""The language annotations of a split. Source: docs/calvin.md 1.5 and 1.8."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.calvin import language
from pipeline.calvin.conformance.survey import SplitSurvey
from pipeline.calvin.conformance.table import finding
from pipeline.calvin.finding import Finding
from wam import tasks
from wam.envs.oracle import PREDICATES

WINDOW_FRAMES = (33, 65)
"""Shortest and longest window: 33 to 48 or 64 frames, one more where the end is inclusive."""
_SHARE_PER_TASK = 0.01 / len(PREDICATES)
"""CALVIN annotated at most this share of the play per task."""
_RACE = 3
"""By how many windows its parallel annotators exceeded that."""


def annotations(split: SplitSurvey) -> Iterator[Finding]:
    """Where the windows are from; empty, repeated, unknown, misplaced and oddly long ones."""
    if split.annotations is None:
        return
    path, listed = split.annotations_file, split.annotations.annotations
    if path != language.ANNOTATIONS:
        file = split.file(language.ANNOTATIONS)
        yield finding("annotations-folder", file, f"not found, but {path}")
    if count := split.annotations.num_rephrased:
        found = "language.ann holds several sentences for a window"
        yield finding("annotation-phrasings", split.file(path), found, count)
    shortest, longest = WINDOW_FRAMES
    empty = [window for window in listed if window.start >= window.stop]
    repeats = [window for window, times in Counter(listed).items() for _ in range(times - 1)]
    unknown = [window for window in split.windows if window.task not in PREDICATES]
    odd = [w for w in split.windows if not shortest <= w.stop - w.start <= longest]
    yield from _windows("annotation-empty", split, empty)
    yield from _windows("annotation-duplicates", split, repeats)
    yield from _windows("annotation-task", split, unknown)
    yield from _windows("annotation-length", split, odd, shortest=shortest, longest=longest - 1)
    if len(split.episodes):
        ends = np.array([(w.start, w.stop - 1) for w in split.windows], np.int64).reshape(-1, 2)
        first, last = split.episode_of(ends).T
        outside = np.flatnonzero((first != last) | (first < 0))
        yield from _windows("annotation-outside", split, [split.windows[at] for at in outside])


def oracle(split: SplitSurvey) -> Iterator[Finding]:
    """Windows of the eight tasks whose first and last state do not show the task done."""
    windows = [window for window in split.windows if window.task in tasks.RULES]
    ends = np.array([(window.start, window.stop - 1) for window in windows], np.int64)
    rows = split.sample.at(ends.reshape(-1, 2))
    scene_obs = split.sample.vectors["scene_obs"]
    failed = [
        window
        for window, (start, end) in zip(windows, rows.tolist(), strict=True)
        if min(start, end) >= 0
        and not tasks.achieved(window.task, scene_obs[start], scene_obs[end])
    ]
    counts = sorted(Counter(window.task for window in failed).items())
    listed = ", ".join(f"{task} {count}" for task, count in counts)
    checked = int((rows.min(axis=1) >= 0).sum())
    yield from _windows("annotation-oracle", split, failed, checked=checked, failed=listed)


def task_counts(split: SplitSurvey) -> Iterator[Finding]:
    """More windows of a task than CALVIN's annotator would have made."""
    frames = len(split.used)
    limit = int(_SHARE_PER_TASK * frames)
    counts = Counter(window.task for window in split.windows)
    above = [(task, count) for task, count in counts.most_common() if count > limit + _RACE]
    if limit and above:
        task, count = above[0]
        found, file = f"{count} windows of {task}", split.file(split.annotations_file)
        yield finding("annotation-counts", file, found, len(above), limit=limit, frames=frames)


def _windows(
    check: str, split: SplitSurvey, windows: Sequence[language.Annotation], **gaps: Any
) -> Iterator[Finding]:
    """One finding of all ``windows``, if there are any."""
    if windows:
        first = windows[0]
        found = f"window ({first.start}, {first.stop}) of {first.task}"
        yield finding(check, split.file(split.annotations_file), found, len(windows), **gaps)
