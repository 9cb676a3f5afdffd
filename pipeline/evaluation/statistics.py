"""Success rates and differences with what the evidence says about them.

Every interval is two-sided at 95 %. A start is evaluated by every seed of a policy, with the same
random numbers: the outcomes of a task are a table of starts and seeds, not independent episodes.
The intervals speak of the population of starts. With one seed they hold for the trained model at
hand; with several, whose training is then a random factor like the starts, for training it again
with other seeds. What all seeds share, such as a world model, is at hand in either case.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from wam.errors import WamError

CONFIDENCE = 0.95
_TAIL = (1 + CONFIDENCE) / 2


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def signed(self, form: str) -> str:
        """``+12.1 [+3.0, +21.5]``, for a difference; ``form`` is that of a number, here ``.1f``."""
        value, low, high = (f"{number:+{form}}" for number in self)
        return f"{value} [{low}, {high}]"


class _Mean(NamedTuple):
    """Of one task, over its starts, two imagined ones and its seeds."""

    value: np.ndarray
    variance: np.ndarray
    """Between starts, each averaged over seeds: with what is left of the seeds' disagreement"""
    excess: np.ndarray
    """What seeds add to it, unbiased, so negative at times"""
    seeds: list[tuple[np.ndarray, int]]
    """Mean squares that rest on few seeds, each with its degrees of freedom"""


def wilson(successes: int, episodes: int) -> Estimate:
    """The success rate of ``successes`` out of ``episodes`` with Wilson's score interval (1927).

    The episodes are independent, such as one model's from many starts. Raises WamError for counts
    that are no proportion.
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise WamError(
            f"success rate of {successes} out of {episodes}: "
            "expected at least one episode and at most as many successes"
        )
    rate, count = np.asarray(successes / episodes), np.asarray(float(episodes))
    return _floats((rate, *_score_interval(rate, count, norm.ppf(_TAIL))))


def success_rate(tasks: Sequence[np.ndarray]) -> Estimate:
    """The unweighted mean over ``tasks`` of the success over starts and seeds.

    One array of 0 and 1 [starts, seeds] per task. Its variance follows from the two-way analysis of
    variance of each task. It is that of the mean of so many independent episodes, and Wilson's
    interval is taken for their number (effective sample size; Kish 1965, Korn and Graubard 1998).
    Two imagined starts, one at which every seed succeeds and one at which every seed fails, keep
    it defined near 0 and 1. Few seeds widen the interval by Student's t with Satterthwaite's
    degrees of freedom (1946).

    One task and one seed, or seeds that agree at every start, give Wilson's interval over starts.
    Raises WamError without a task, or for an empty one.
    """
    if not tasks:
        raise WamError("success rate: expected at least one task")
    return _floats(rate_interval([_table(task) for task in tasks]))


def rate_interval(tasks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and bounds of `success_rate` for many experiments at once [..., starts, seeds]."""
    means = [_mean(task.mean(axis=-1), [task], 0, len(tasks)) for task in tasks]
    variance, quantile = _combined(means)
    starts = sum(task.shape[-2] for task in tasks)
    centre = sum(mean.value for mean in means) / len(tasks)
    episodes = centre * (1 - centre) / variance * starts / (starts + 2)
    rate = np.asarray(sum(task.mean(axis=(-2, -1)) for task in tasks) / len(tasks))
    return rate, *_score_interval(rate, episodes, quantile)


def success_difference(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Estimate:
    """The unweighted mean over tasks of the success of ``first`` minus that of ``second``.

    Two arrays of 0 and 1 [starts, seeds] per task, of the same starts in the same order; the number
    of seeds may differ. The difference is taken start by start, so that what makes a start hard for
    both cancels. Two imagined starts, at which one or the other alone succeeds, keep equal outcomes
    at a few starts from being a certainty: for one task and one seed each this is the interval of
    Bonett and Price (2012). Either side's seeds are dealt with as in `success_rate`.

    Raises WamError where the two sides do not pair up.
    """
    if len(first) != len(second) or not first:
        raise WamError(f"paired difference: {len(first)} against {len(second)} tasks")
    sides = [[_table(task) for task in side] for side in (first, second)]
    for a, b in zip(*sides, strict=True):
        if len(a) != len(b):
            raise WamError(f"paired difference: {len(a)} against {len(b)} start states of one task")
    return _floats(difference_interval(*sides))


def difference_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and bounds of `success_difference` for many experiments [..., starts, seeds]."""
    differences = [a.mean(axis=-1) - b.mean(axis=-1) for a, b in zip(first, second, strict=True)]
    means = [
        _mean(difference, tables, -1, len(first))
        for difference, *tables in zip(differences, first, second, strict=True)
    ]
    variance, quantile = _combined(means)
    half = quantile * np.sqrt(variance)
    centre = sum(mean.value for mean in means) / len(first)
    value = np.asarray(sum(d.mean(axis=-1) for d in differences) / len(first))
    return value, np.maximum(centre - half, -1), np.minimum(centre + half, 1)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The mean of ``first - second``, measured on the same things, with Student's interval.

    One figure per sequence or the like, for instance decibels. Raises WamError where the two sides
    do not pair up or hold less than two.
    """
    if np.shape(first) != np.shape(second) or np.size(first) < 2:
        raise WamError(
            f"paired difference: {np.size(first)} against {np.size(second)} values, "
            "expected as many and at least two"
        )
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return student_interval(difference)


def student_interval(values: np.ndarray) -> Estimate:
    """The mean of at least two independent ``values`` with Student's interval."""
    count = len(values)
    half = t.ppf(_TAIL, count - 1) * values.std(ddof=1) / np.sqrt(count)
    value = values.mean()
    return Estimate(float(value), float(value - half), float(value + half))


def _mean(starts: np.ndarray, tables: Sequence[np.ndarray], least: float, num_tasks: int) -> _Mean:
    """The mean of ``starts`` [..., starts] in [least, 1], made of ``tables`` [..., starts, seeds].

    The imagined starts lie at ``least`` and 1; ``num_tasks`` share them. A table's seeds add
    (MS seeds - MS residual) / (starts x seeds) of its two-way analysis of variance.
    """
    count = starts.shape[-1] + 2 / num_tasks
    value = (starts.sum(axis=-1) + (1 + least) / num_tasks) / count
    square = (np.square(starts).sum(axis=-1) + (1 + least**2) / num_tasks) / count
    excess, squares = np.zeros_like(value), []
    for table in tables:
        rows, seeds = table.shape[-2:]
        if seeds == 1:
            continue
        by_seed = table.mean(axis=-2, keepdims=True)
        residual = table - table.mean(axis=-1, keepdims=True) - by_seed
        residual += table.mean(axis=(-2, -1), keepdims=True)
        noise = np.square(residual).sum(axis=(-2, -1)) / (max(rows - 1, 1) * (seeds - 1))
        between = rows * by_seed.var(axis=(-2, -1), ddof=1)
        excess += (between - noise) / (rows * seeds)
        squares.append((between / (rows * seeds), seeds - 1))
    return _Mean(value, (square - np.square(value)) / count, excess, squares)


def _combined(means: Sequence[_Mean]) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the mean of independent ``means``, and the quantile that goes with it.

    The quantile is Student's t with Satterthwaite's degrees of freedom. Those of the starts, which
    are many, count as infinite: without several seeds it is the normal's.
    """
    excess = np.maximum(sum(mean.excess for mean in means), 0)
    total = sum(mean.variance for mean in means) + excess
    uncertain = np.zeros_like(total)
    for mean in means:
        for part, freedom in mean.seeds:
            uncertain += np.square(np.minimum(part, total)) / freedom
    with np.errstate(divide="ignore"):
        freedom = np.square(total) / uncertain
    return total / len(means) ** 2, t.ppf(_TAIL, freedom)


def _score_interval(
    rate: np.ndarray, episodes: np.ndarray, quantile: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    square = np.square(quantile) / episodes
    centre = (rate + square / 2) / (1 + square)
    half = np.sqrt(rate * (1 - rate) * square + np.square(square) / 4) / (1 + square)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def _table(outcomes: np.ndarray) -> np.ndarray:
    table = np.asarray(outcomes, np.float64)
    if table.ndim != 2 or table.size == 0:
        raise WamError(f"outcomes of shape {table.shape}: expected [starts, seeds], none of them 0")
    return table


def _floats(interval: Sequence[np.ndarray]) -> Estimate:
    return Estimate(*(float(number) for number in interval))
