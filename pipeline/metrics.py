"""Success rates with their uncertainty: of a proportion, of a mean over tasks, of a difference.

Every interval is two-sided at 95 % unless told otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from wam.errors import WamError

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, episodes: int, confidence: float = CONFIDENCE) -> Estimate:
    """The success rate of ``successes`` out of ``episodes`` with Wilson's score interval (1927).

    Raises WamError for counts that are no proportion.
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise WamError(
            f"success rate of {successes} out of {episodes}: "
            "expected at least one episode and at most as many successes"
        )
    interval = binomtest(successes, episodes).proportion_ci(confidence, method="wilson")
    return Estimate(successes / episodes, float(interval.low), float(interval.high))


def macro_average(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean over tasks, its interval recovered from the tasks' own.

    The tasks are independent, so the distances from the estimates to their bounds add in squares
    (MOVER; Zou and Donner 2008). With one task the interval is that task's.
    """
    if not estimates:
        raise WamError("macro average: expected at least one task")
    values = np.array(estimates, np.float64)
    value = values[:, 0].mean()
    below = np.sqrt(np.square(values[:, 0] - values[:, 1]).sum()) / len(values)
    above = np.sqrt(np.square(values[:, 2] - values[:, 0]).sum()) / len(values)
    return Estimate(float(value), float(value - below), float(value + above))


def paired_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    rng: np.random.Generator,
    resamples: int = 10_000,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Macro average of ``first - second`` with a percentile bootstrap interval.

    One array per task, one element per start state: the success (0 or 1) there, or its mean over
    seeds. Both sides hold the same starts in the same order; starts are resampled together, within
    their task, so that the difficulty of a start cancels. Any other figure of anything that both
    sides were measured on, such as sequences, is compared in the same way.

    Raises WamError where the two sides do not pair up.
    """
    if len(first) != len(second) or not first:
        raise WamError(f"paired difference: {len(first)} against {len(second)} tasks")
    value, total = 0.0, np.zeros(resamples)
    for a, b in zip(first, second, strict=True):
        if np.shape(a) != np.shape(b) or np.size(a) == 0:
            raise WamError(
                f"paired difference: {np.size(a)} against {np.size(b)} start states of one task"
            )
        difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
        value += difference.mean()
        rows = rng.integers(len(difference), size=(resamples, len(difference)))
        total += difference[rows].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(total / len(first), (tail, 1 - tail))
    return Estimate(value / len(first), float(low), float(high))
