"""Intervals over seeds: against closed forms, and against what simulated studies do."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from pipeline.study.across_seeds import (
    holm,
    macro,
    mean_over_seeds,
    p_value,
    smallest_seen,
    two_level_bootstrap,
)
from wam.errors import WamError

Side = dict[int, list[np.ndarray]]


def side(rng: np.random.Generator, seeds: int, starts: tuple[int, ...], rate: float) -> Side:
    return {seed: [rng.random(count) < rate for count in starts] for seed in range(seeds)}


def simulated(
    rng: np.random.Generator, seeds: int, tasks: int, starts: int, effect: float = 0.0
) -> tuple[Side, Side]:
    """Two sides whose success depends on the start, on the seed, and on both.

    ``effect`` is the shift of the first side's log-odds.
    """
    hard = rng.normal(0, 1.5, (tasks, starts))
    sides: tuple[Side, Side] = ({}, {})
    for seed in range(seeds):
        for at, own in enumerate(sides):
            trained = rng.normal(0, 0.5) + rng.normal(0, 0.5, (tasks, 1))
            odds = hard + trained + rng.normal(0, 1, hard.shape) + (effect if at == 0 else 0)
            own[seed] = list(rng.random(hard.shape) < 1 / (1 + np.exp(-odds)))
    return sides


def differences(first: Side, second: Side) -> list[float]:
    return [macro(first[seed]) - macro(second[seed]) for seed in first]


def test_the_interval_is_that_of_the_t_test() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        values = rng.random(count)
        expected = ttest_1samp(values, 0).confidence_interval(0.95)
        estimate = mean_over_seeds(values.tolist())
        assert estimate == pytest.approx((values.mean(), *expected), abs=1e-12)


def test_pairs_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    first, second = simulated(rng, 5, 4, 60)
    pairs = [[macro(own[seed]) for seed in first] for own in (first, second)]
    expected = ttest_rel(*pairs).confidence_interval(0.95)
    estimate = mean_over_seeds(differences(first, second))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("seeds", [3, 5])
def test_of_nominal_95_percent_intervals_so_many_hold(seeds: int) -> None:
    """No effect, but seeds and starts that vary: the true difference is 0."""
    rng = np.random.default_rng(seeds)
    held = [
        estimate.low <= 0 <= estimate.high
        for _ in range(2000)
        for estimate in [mean_over_seeds(differences(*simulated(rng, seeds, 4, 20)))]
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_the_bootstrap_is_too_narrow_for_few_seeds_and_right_for_many() -> None:
    """Why Student's interval is the headline."""
    held = {}
    for seeds in (3, 20):
        rng = np.random.default_rng(seeds)
        found = []
        for trial in range(300):
            sides = simulated(rng, seeds, 4, 20)
            estimate = two_level_bootstrap(*sides, draws=300, seed=trial)
            found.append(estimate.low <= 0 <= estimate.high)
        held[seeds] = np.mean(found)
    assert held[3] < 0.93
    assert held[20] >= 0.92


def test_the_bootstrap_is_what_drawing_one_by_one_gives() -> None:
    rng = np.random.default_rng(2)
    first, second = side(rng, 3, (7, 5), 0.7), side(rng, 3, (7, 5), 0.4)
    draws = []
    for _ in range(20_000):
        seeds = rng.integers(3, size=3)
        by_task = []
        for task, count in enumerate((7, 5)):
            starts = rng.integers(count, size=count)
            by_task.append(
                np.mean(
                    [
                        first[seed][task][starts].mean() - second[seed][task][starts].mean()
                        for seed in seeds
                    ]
                )
            )
        draws.append(np.mean(by_task))
    estimate = two_level_bootstrap(first, second, draws=20_000)
    assert estimate.value == pytest.approx(np.mean(differences(first, second)))
    assert estimate[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


def test_equal_sides_differ_by_nothing() -> None:
    first = side(np.random.default_rng(3), 4, (10, 10), 0.5)
    assert two_level_bootstrap(first, first) == (0, 0, 0)
    assert smallest_seen(differences(first, first)) is None


def test_the_smallest_effect_shows_four_times_in_five() -> None:
    """Normal differences of known spread: such a study detects it with the power that it says."""
    rng = np.random.default_rng(4)
    spread, count = 0.05, 5
    known = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    known *= spread / known.std(ddof=1)
    effect = smallest_seen(known.tolist())
    assert effect is not None
    estimates = [mean_over_seeds(rng.normal(effect, spread, count).tolist()) for _ in range(4000)]
    assert np.mean([one.low > 0 for one in estimates]) == pytest.approx(0.8, abs=0.02)


def test_what_cannot_be_paired_is_refused() -> None:
    rng = np.random.default_rng(5)
    first = side(rng, 3, (7, 5), 0.5)
    for other in (side(rng, 2, (7, 5), 0.5), side(rng, 3, (7,), 0.5), side(rng, 3, (7, 6), 0.5)):
        with pytest.raises(WamError, match="the sides differ"):
            two_level_bootstrap(first, other)
    with pytest.raises(WamError, match="at least two"):
        mean_over_seeds([0.5])
    assert smallest_seen([0.1]) is None


def test_p_is_that_of_the_t_test_and_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(6)
    for count in (2, 3, 5, 10):
        values = rng.normal(0.03, 0.04, count).tolist()
        p, estimate = p_value(values), mean_over_seeds(values)
        assert p == pytest.approx(ttest_1samp(values, 0).pvalue)
        assert p is not None
        assert (p < 0.05) == (not estimate.low <= 0 <= estimate.high)
    # One degree of freedom: Cauchy's distribution.
    assert p_value([0.01, 0.03]) == pytest.approx(1 - 2 / np.pi * np.arctan(2))
    assert p_value([0.1]) is None
    assert p_value([0.1, 0.1, 0.1]) is None
    assert smallest_seen([0.1, 0.1, 0.1]) is None


def test_holm_steps_down() -> None:
    """By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not fall below the one
    before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.04]
    assert holm([]) == []


def test_holm_keeps_the_family_to_its_level() -> None:
    """Of five comparisons without a difference, one in twenty such families names one."""
    rng = np.random.default_rng(7)
    families = rng.uniform(size=(4000, 5)).tolist()
    named = [min(p for p in holm(family) if p is not None) < 0.05 for family in families]
    assert np.mean(named) == pytest.approx(0.05, abs=0.012)
