"""The task of every frame: LeRobot knows one sentence per frame, play has windows that overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import console
from pipeline.calvin.language import Annotation
from pipeline.store.open import Store

PLAY = "play"
"""The task of frames outside every annotated window."""


@dataclass(frozen=True)
class Labels:
    """The tasks of a split."""

    tasks: list[str]
    """:data:`PLAY`, then the sentences in the order of the annotations."""
    index: np.ndarray
    """int64 [N]: place in ``tasks`` of every row's task."""


def label_frames(store: Store, annotations: Sequence[Annotation]) -> Labels:
    """The sentence of the window that a frame lies in, or :data:`PLAY`.

    Where windows overlap, a frame belongs to the one that ends first: its task is done first. Of
    windows with the same end, the first annotation counts. Windows that do not lie inside one
    stored episode are left out.
    """
    ids = np.array([(a.start, a.stop - 1) for a in annotations], np.int64).reshape(-1, 2)
    rows = np.minimum(np.searchsorted(store.frame_ids, ids), store.num_frames - 1)
    episodes = store.episode_of_rows(rows)
    is_stored = (store.frame_ids[rows] == ids).all(1) & (episodes[:, 0] == episodes[:, 1])
    if not is_stored.all():
        console.warn(
            f"{store.path}: {(~is_stored).sum()} of {len(annotations)} annotated windows do not "
            "lie inside one stored episode and are left out"
        )
    windows = [
        (first, last + 1, annotation.sentence)
        for (first, last), annotation, stored in zip(
            rows.tolist(), annotations, is_stored, strict=True
        )
        if stored
    ]
    tasks = list(dict.fromkeys([PLAY, *(sentence for _, _, sentence in windows)]))
    index = np.zeros(store.num_frames, np.int64)
    # The last to be written counts; sorting is stable.
    for first, stop, sentence in sorted(reversed(windows), key=lambda window: -window[1]):
        index[first:stop] = tasks.index(sentence)
    return Labels(tasks, index)
