"""What several trainings say of training: the seed is the unit.

Starts are many and seeds are few. An interval over the starts of one trained model speaks of that
model; here every seed, which trained everything anew, gives one figure, and the interval is that of
so many figures. Runs of the same seed are a pair.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t, ttest_1samp

from pipeline.evaluation.statistics import CONFIDENCE, Estimate, student_interval
from wam.errors import WamError

POWER = 0.8
_ROUNDING = 1e-12
"""A spread below it is none."""
_TAIL = (1 + CONFIDENCE) / 2
Outcomes = Mapping[int, Sequence[np.ndarray]]
"""By seed: successes bool [starts] of every task, from the same starts in the same order."""


def mean_over_seeds(figures: Sequence[float]) -> Estimate:
    """The mean of one figure per seed with Student's interval.

    Raises WamError for fewer than two, of which nothing can be said about further seeds.
    """
    values = np.asarray(figures, np.float64)
    if len(values) < 2:
        raise WamError(f"{len(values)} seed(s): an interval over seeds needs at least two")
    return student_interval(values)


def p_value(differences: Sequence[float]) -> float | None:
    """How often pairs without a true difference give a mean so far from 0 (Student, two-sided).

    None if it cannot be told: fewer than two pairs, or pairs without spread.
    """
    if _spread(differences) is None:
        return None
    return float(ttest_1samp(np.asarray(differences, np.float64), 0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Each of ``p_values``, corrected for being one of so many (Holm 1979).

    What cannot be told stays None, and counts as one of them.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[place] = largest
    return corrected


def macro(tasks: Sequence[np.ndarray]) -> float:
    """The unweighted mean over tasks of the share of successes."""
    return float(np.mean([task.mean() for task in tasks]))


def two_level_bootstrap(
    first: Outcomes, second: Outcomes, *, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """The macro difference with a percentile interval: seeds are drawn, then starts of each task.

    Both sides share what is drawn. Few seeds make it too narrow (it knows no more of the spread
    between seeds than those there are): it stands beside Student's interval and does not replace
    it. Raises WamError unless both sides have the same seeds, tasks and numbers of starts.
    """
    shapes = [
        {s: [len(task) for task in tasks] for s, tasks in side.items()} for side in (first, second)
    ]
    if shapes[0] != shapes[1] or not first:
        raise WamError("bootstrap: the sides differ in their seeds, tasks or starts")
    rng = np.random.default_rng(seed)
    seeds = list(first)
    # [seeds, starts] of every task
    differences = [
        np.stack([first[s][at].astype(float) - second[s][at].astype(float) for s in seeds])
        for at in range(len(first[seeds[0]]))
    ]
    chosen = rng.integers(len(seeds), size=(draws, len(seeds)))
    total = np.zeros(draws)
    for table in differences:
        starts = rng.integers(table.shape[1], size=(draws, table.shape[1]))
        # How often each seed and each start is drawn weighs its outcomes.
        seed_weight, start_weight = (
            np.stack([np.bincount(row, minlength=size) for row in drawn]) / size
            for drawn, size in ((chosen, len(seeds)), (starts, table.shape[1]))
        )
        total += ((seed_weight @ table) * start_weight).sum(1)
    low, high = np.quantile(total / len(differences), [1 - _TAIL, _TAIL])
    value = np.mean([table.mean() for table in differences])
    return Estimate(float(value), float(low), float(high))


def smallest_seen(differences: Sequence[float]) -> float | None:
    """The true difference that so many pairs with this spread show with a power of 80 %.

    None if it cannot be told: fewer than two pairs, or pairs without spread.
    """
    count, spread = len(differences), _spread(differences)
    if spread is None:
        return None
    limit = t.ppf(_TAIL, count - 1)

    def missing(shift: float) -> float:
        return float(nct.sf(limit, count - 1, shift) - POWER)

    return float(brentq(missing, 0, 100) * spread / np.sqrt(count))


def _spread(differences: Sequence[float]) -> float | None:
    """Their standard deviation; None for fewer than two, or where they are equal."""
    if len(differences) < 2:
        return None
    spread = float(np.std(np.asarray(differences, np.float64), ddof=1))
    return spread if spread >= _ROUNDING else None
