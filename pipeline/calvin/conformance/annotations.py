"""The language annotations of a split. Source: CALVIN contract 1.5 and 1.8."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.calvin import language
from pipeline.calvin.conformance.survey import Split
from pipeline.calvin.finding import Finding, Severity
from wam import tasks
from wam.envs.oracle import PREDICATES

WINDOW_FRAMES = (33, 65)
"""Shortest and longest window: 33 to 48 or 64 frames, one more where the end is inclusive."""
_SHARE_PER_TASK = 0.01 / len(PREDICATES)
"""CALVIN annotated at most this share of the play per task."""
_RACE = 3
"""By how many windows its parallel annotators exceeded that."""


def annotations_file(split: Split) -> Iterator[Finding]:
    """Annotations of another language model, and instructions in several wordings."""
    if split.annotations_file != language.ANNOTATIONS:
        yield Finding(
            check="annotations-folder",
            severity="warning",
            file=split.file(language.ANNOTATIONS),
            found=f"not found, but {split.annotations_file}",
            expected="the folder that official loaders read",
            advice="The other one is used: its windows are the same, its embeddings are not needed",
        )
    if split.num_rephrased:
        yield Finding(
            check="annotation-phrasings",
            severity="warning",
            file=split.file(split.annotations_file),
            found="language.ann holds several sentences for a window",
            count=split.num_rephrased,
            expected="one each",
            advice="The first one is used",
        )


def annotations(split: Split) -> Iterator[Finding]:
    """Empty, repeated, unknown, misplaced and oddly long windows."""
    listed = split.annotations if isinstance(split.annotations, list) else []
    yield from _of_windows(
        split,
        [window for window in listed if window.start >= window.stop],
        check="annotation-empty",
        severity="error",
        expected="a start before the end",
        advice="No stage reads such annotations; remove the entries",
    )
    yield from _of_windows(
        split,
        [window for window, times in Counter(listed).items() for _ in range(times - 1)],
        check="annotation-duplicates",
        severity="warning",
        expected="every window once",
        advice="Repeats are dropped. The validation annotations of ABC and ABCD are padded with "
        "them; those of D are not",
    )
    yield from _of_windows(
        split,
        [window for window in split.windows if window.task not in PREDICATES],
        check="annotation-task",
        severity="warning",
        expected=f"one of CALVIN's {len(PREDICATES)} tasks",
        advice="These windows are never used",
    )
    shortest, longest = WINDOW_FRAMES
    yield from _of_windows(
        split,
        [w for w in split.windows if not shortest <= w.stop - w.start <= longest],
        check="annotation-length",
        severity="note",
        expected=f"{shortest} to {longest - 1} frames, as CALVIN's annotator makes them",
        advice="Used as they are",
    )
    if len(split.episodes):
        yield from _of_windows(
            split,
            [window for window in split.windows if not _inside_one_episode(split, window)],
            check="annotation-outside",
            severity="warning",
            expected="frames of one episode",
            advice="The stage 'extract' leaves these windows out",
        )


def oracle(split: Split) -> Iterator[Finding]:
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
    counts = Counter(window.task for window in failed)
    checked = int((rows.min(axis=1) >= 0).sum())
    yield from _of_windows(
        split,
        failed,
        check="annotation-oracle",
        severity="warning",
        expected=f"the task done in its last frame; so fail, of {checked:,} windows looked at, "
        f"{', '.join(f'{task} {count}' for task, count in sorted(counts.items()))}",
        advice="Annotations of ABC and ABCD from before 2022-09-16 are wrong (mees/calvin#26)",
    )


def task_counts(split: Split) -> Iterator[Finding]:
    """More windows of a task than CALVIN's annotator would have made."""
    limit = int(_SHARE_PER_TASK * len(split.used))
    counts = Counter(window.task for window in split.windows)
    above = [(task, count) for task, count in counts.most_common() if count > limit + _RACE]
    if limit and above:
        yield Finding(
            check="annotation-counts",
            severity="note",
            file=split.file(split.annotations_file),
            found=f"{above[0][1]} windows of {above[0][0]}",
            count=len(above),
            expected=f"at most {limit} per task in {len(split.used):,} frames",
            advice="The stage 'extract' draws extract.demos_per_task of the training windows",
        )


def _inside_one_episode(split: Split, window: language.Annotation) -> bool:
    first, last = split.episode_of(np.array([window.start, window.stop - 1])).tolist()
    return first == last >= 0


def _of_windows(
    split: Split,
    windows: Sequence[language.Annotation],
    *,
    check: str,
    severity: Severity,
    expected: str,
    advice: str,
) -> Iterator[Finding]:
    if windows:
        first = windows[0]
        yield Finding(
            check=check,
            severity=severity,
            file=split.file(split.annotations_file),
            found=f"window ({first.start}, {first.stop}) of {first.task}",
            count=len(windows),
            expected=expected,
            advice=advice,
        )
