"""Consecutive decoded frames, whichever store or file they come from."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

CopyRows = Callable[[int, np.ndarray], None]
"""``copy(start, target)`` copies the rows from ``start`` on over all rows of ``target``."""


class Frames(NamedTuple):
    """Consecutive frames, of which windows are cut; the names are the store's."""

    rgb_static: CopyRows
    """To uint8 [n, 64, 64, 3]."""
    rgb_gripper: CopyRows
    proprio: np.ndarray
    """float32 [N, 18], not normalised"""
    rel_actions: np.ndarray
    """float32 [N, 7]"""

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray] | np.ndarray) -> "Frames":
        """The frames in arrays [N, ...], or records [N], by name; nothing is copied."""
        return cls(
            partial(_copy_rows, arrays["rgb_static"]),
            partial(_copy_rows, arrays["rgb_gripper"]),
            arrays["proprio"],
            arrays["rel_actions"],
        )


def _copy_rows(rows: np.ndarray, start: int, target: np.ndarray) -> None:
    target[...] = rows[start : start + len(target)]
