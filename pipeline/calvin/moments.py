"""Count, range, mean and spread of vectors, computed in parts and merged.

Count, minimum and maximum are exact. Mean and standard deviation of merged parts agree with those
of all rows at once to about 1e-12 of the elements' range; merging the same parts in the same order
gives the same bits (Chan, Golub and LeVeque 1983).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Moments:
    """Of every element of N vectors; all arrays are float64 [D]."""

    count: int
    """N"""
    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    """Sum of the squared distances from the mean."""

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Of the rows of ``values`` [N, D], of which there is at least one."""
        rows = np.asarray(values, np.float64)
        mean = rows.mean(0)
        return cls(len(rows), rows.min(0), rows.max(0), mean, ((rows - mean) ** 2).sum(0))

    def merged(self, other: Self) -> Self:
        """Of the rows of both."""
        count = self.count + other.count
        distance = other.mean - self.mean
        share = other.count / count
        return type(self)(
            count,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.mean + distance * share,
            self.squares + other.squares + distance**2 * self.count * share,
        )

    @property
    def std(self) -> np.ndarray:
        """float64 [D]: standard deviation of the rows themselves (divided by N)."""
        return np.sqrt(self.squares / self.count)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-like lists, from which :meth:`from_dict` makes the same bits again."""
        arrays = ("minimum", "maximum", "mean", "squares")
        return {"count": self.count, **{name: getattr(self, name).tolist() for name in arrays}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` made."""
        arrays = ("minimum", "maximum", "mean", "squares")
        return cls(values["count"], *(np.asarray(values[name]) for name in arrays))
