from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binomtest, norm, t, ttest_rel

from pipeline.evaluation.statistics import (
    Estimate,
    difference_interval,
    paired_difference,
    rate_interval,
    success_difference,
    success_rate,
    wilson,
)
from wam.errors import WamError

STARTS = 29


def table(successes: int, starts: int = STARTS, seeds: int = 1) -> np.ndarray:
    """Outcomes [starts, seeds] of seeds that agree at every start."""
    return np.repeat(np.arange(starts)[:, None] < successes, seeds, axis=1)


@pytest.mark.parametrize(("k", "n"), [(0, 29), (9, 10), (17, 29), (29, 29), (1, 1)])
def test_wilson_matches_scipy(k, n):
    interval = binomtest(k, n).proportion_ci(method="wilson")
    estimate = wilson(k, n)
    assert estimate == pytest.approx((k / n, interval.low, interval.high), abs=1e-12)
    assert estimate.low <= k / n <= estimate.high


def test_wilson_of_nine_out_of_ten():
    assert wilson(9, 10) == pytest.approx((0.9, 0.596, 0.982), abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(WamError, match="out of"):
        wilson(k, n)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("successes", [0, 1, 20, 29])
def test_the_same_starts_again_say_nothing_new(successes, seeds):
    repeated = success_rate([table(successes, seeds=seeds)])
    assert repeated == pytest.approx(wilson(successes, STARTS), abs=1e-9)


def test_twenty_of_twenty_nine_three_times_is_not_sixty_of_eighty_seven():
    estimate = success_rate([table(20, seeds=3)])
    assert [round(100 * bound) for bound in estimate] == [69, 51, 83]
    assert [round(100 * bound) for bound in wilson(60, 87)] == [69, 59, 78]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_repeating_a_seed_changes_no_rate_and_no_difference(seeds):
    rng = np.random.default_rng(0)
    for _ in range(20):
        once, other = rng.random((2, STARTS, 1)) < rng.random()
        again = np.repeat(once, seeds, axis=1)
        assert success_rate([again]) == pytest.approx(success_rate([once]), abs=1e-9)
        difference = success_difference([once], [other])
        assert success_difference([again], [other]) == pytest.approx(difference, abs=1e-9)


def test_seeds_that_part_widen_the_interval_as_students_t_does():
    """Starts that do not matter and seeds that decide: the rates of the seeds are all there is."""
    counts = np.array([600, 700, 800, 500])
    outcomes = np.stack(
        [np.random.default_rng(s).permutation(1000) < k for s, k in enumerate(counts)], 1
    )
    estimate = success_rate([outcomes])
    rates = counts / 1000
    half = t.ppf(0.975, 3) * rates.std(ddof=1) / 2
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_two_seeds_that_disagree_say_little():
    estimate = success_rate([np.stack([np.arange(29) < 10, np.arange(29) < 27], axis=1)])
    assert estimate.low < 0.05
    assert estimate.high > 0.95


def test_a_rate_over_tasks_weighs_tasks_and_not_episodes():
    assert success_rate([table(0, 10), table(90, 90)]).value == pytest.approx(0.5)


def test_a_rate_over_equal_tasks_is_that_of_all_their_starts():
    assert success_rate([table(7)] * 4) == pytest.approx(wilson(28, 4 * STARTS), abs=2e-3)


@pytest.mark.parametrize("tasks", [[], [np.ones((0, 1))], [np.ones(3)]])
def test_a_rate_of_nothing_is_refused(tasks):
    with pytest.raises(WamError, match="expected"):
        success_rate(tasks)


def test_a_difference_of_two_models_is_that_of_bonett_and_price():
    first, second = table(20)[::-1], table(15)
    a, b = (first > second).sum(), (second > first).sum()
    p, q = (a + 1) / (STARTS + 2), (b + 1) / (STARTS + 2)
    half = norm.ppf(0.975) * np.sqrt((p + q - (p - q) ** 2) / (STARTS + 2))
    expected = ((a - b) / STARTS, p - q - half, p - q + half)
    assert success_difference([first], [second]) == pytest.approx(expected)


def test_the_difficulty_of_a_start_cancels():
    starts = np.arange(40)[:, None] % 2 == 0
    same = success_difference([starts], [starts])
    other = success_difference([starts], [~starts])
    assert same.value == other.value == 0
    assert same.high == -same.low < other.high / 4
    assert same.high > 0, "forty starts are not all starts"


def test_a_difference_over_tasks_is_normal_for_many_starts():
    rng = np.random.default_rng(0)
    tasks = [rng.integers(2, size=(2, 300, 1)) for _ in range(3)]
    first, second = zip(*tasks, strict=True)
    estimate = success_difference(first, second)
    variance = sum(np.var(a - b) / len(a) for a, b in tasks) / 9
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert estimate.value == pytest.approx(np.mean([(a - b).mean() for a, b in tasks]))
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.01)


def test_a_difference_of_a_policy_to_itself_holds_the_variance_of_its_seeds():
    seeds = np.stack([np.arange(29) < k for k in (14, 20, 26)], axis=1)
    alone = success_difference([seeds.mean(axis=1, keepdims=True)], [table(20)])
    assert success_difference([seeds], [table(20)]).high > alone.high + 0.1


def test_a_difference_refuses_different_starts():
    with pytest.raises(WamError, match="3 against 2 start states"):
        success_difference([np.ones((3, 1))], [np.ones((2, 1))])
    with pytest.raises(WamError, match="1 against 2 tasks"):
        success_difference([np.ones((3, 1))], [np.ones((3, 1))] * 2)


def test_a_paired_difference_matches_scipy():
    first, second = np.random.default_rng(0).normal(size=(2, 40))
    interval = ttest_rel(first, second).confidence_interval()
    estimate = paired_difference(first, second)
    assert estimate == pytest.approx(((first - second).mean(), interval.low, interval.high))
    assert paired_difference(first, first) == Estimate(0, 0, 0)


def test_a_paired_difference_refuses_what_is_no_pair():
    for first, second in ((np.ones(3), np.ones(2)), (np.ones(1), np.ones(1))):
        with pytest.raises(WamError, match="paired difference"):
            paired_difference(first, second)


class Population:
    """Policies whose success depends on the start and on the seed of their training.

    The logit of a success is normal over starts and seeds. Its standard deviation over starts is 1
    or 3 (three of four starts then are all but certain), over seeds 0 or as given.
    """

    def __init__(self, rng: np.random.Generator, experiments: int) -> None:
        self.rng, self.experiments = rng, experiments
        self.nodes, weights = np.polynomial.hermite_e.hermegauss(61)
        self.weights = weights / weights.sum()

    def outcomes(
        self,
        rate: float,
        seeds: int,
        by_start: float,
        by_seed: float,
        common: np.ndarray | None = None,
    ) -> np.ndarray:
        """[experiments, starts, seeds]; ``common`` [experiments, starts]: how hard starts are."""
        scale = np.hypot(by_start, by_seed)
        middle = brentq(lambda m: self.weights @ expit(m + scale * self.nodes) - rate, -60, 60)
        starts = self.hardness() if common is None else common
        models = by_seed * self.rng.normal(size=(self.experiments, 1, seeds))
        chance = expit(middle + by_start * starts[..., None] + models)
        return (self.rng.random(chance.shape) < chance).astype(float)

    def hardness(self) -> np.ndarray:
        return self.rng.normal(size=(self.experiments, STARTS))


def covered(interval: Sequence[np.ndarray], truth: float) -> float:
    """The share of intervals that hold the truth, in percent."""
    _, low, high = interval
    assert (low >= -1).all()
    assert (high <= 1).all()
    return 100 * float(((low <= truth) & (truth <= high)).mean())


RATES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
EIGHT = (0.95, 0.9, 0.8, 0.85, 0.7, 0.9, 0.6, 0.95)
SEED_SPREAD = 0.45
"""In logits: 9 points of success between seeds at 50 %, 5 at 85 %; the runs show less."""


@pytest.fixture
def population() -> Population:
    return Population(np.random.default_rng(0), experiments=4000)


# Wilson's interval of 29 starts holds up to 98 % near 0 and 1, where counts are few. A few seeds
# that do not differ cannot be told from some that do, nor, near 1, starts that do not matter from
# some that do: t and the imagined starts then hold more than 97 %. The simulation errs by 0.4 %.
@pytest.mark.parametrize("by_start", [1, 3])
def test_coverage_of_one_seed(population: Population, by_start: float) -> None:
    for rate in RATES:
        found = covered(rate_interval([population.outcomes(rate, 1, by_start, 0)]), rate)
        assert 93 <= found <= 98.5, rate


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("by_seed", [0, SEED_SPREAD])
@pytest.mark.parametrize("by_start", [1, 3])
def test_coverage_of_several_seeds(
    population: Population, seeds: int, by_seed: float, by_start: float
) -> None:
    found = {
        rate: covered(rate_interval([population.outcomes(rate, seeds, by_start, by_seed)]), rate)
        for rate in RATES
    }
    assert min(found.values()) >= 93, found
    assert max(found[rate] for rate in RATES[1:-1]) <= 98.7, found
    assert max(found.values()) <= 99.5, found


def test_two_seeds_far_apart_are_covered_less(population: Population) -> None:
    """The known limit: of 14 points between seeds, two of them show too little too often."""
    found = [covered(rate_interval([population.outcomes(0.5, n, 1, 0.7)]), 0.5) for n in (2, 3, 5)]
    assert 91 <= found[0] <= 94
    assert min(found[1:]) >= 93


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_pooled_episodes_would_not_be_covered(population: Population, rate: float) -> None:
    """What this module replaces: Wilson's interval of all episodes of several seeds."""
    outcomes = population.outcomes(rate, 5, 3, SEED_SPREAD)
    pooled = outcomes.reshape(population.experiments, -1, 1)
    assert covered(rate_interval([pooled]), rate) < 85


@pytest.mark.parametrize("tasks", [3, 8])
@pytest.mark.parametrize(
    ("seeds", "by_seed"),
    [(1, 0), (2, 0), (3, 0), (5, 0), (2, SEED_SPREAD), (3, SEED_SPREAD), (5, SEED_SPREAD)],
)
def test_coverage_of_averages_over_tasks(
    population: Population, tasks: int, seeds: int, by_seed: float
) -> None:
    for rates in (EIGHT[:tasks], (0.95,) * tasks):
        outcomes = [population.outcomes(rate, seeds, 2, by_seed) for rate in rates]
        found = covered(rate_interval(outcomes), float(np.mean(rates)))
        assert 93 <= found <= (98.7 if seeds > 1 else 97), rates


@pytest.mark.parametrize("tasks", [1, 3, 8])
@pytest.mark.parametrize("seeds", [(1, 1), (3, 1), (2, 2), (3, 3)])
def test_coverage_of_differences(
    population: Population, tasks: int, seeds: tuple[int, int]
) -> None:
    for first, second in ((0.5, 0.5), (0.7, 0.5), (0.9, 0.8)):
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for _ in range(tasks):
            common = population.hardness()
            for side, rate, count in zip(sides, (first, second), seeds, strict=True):
                own = 0.8 * common + 0.6 * population.hardness()
                spread = SEED_SPREAD if count > 1 else 0
                side.append(population.outcomes(rate, count, 2, spread, own))
        found = covered(difference_interval(*sides), first - second)
        assert 93 <= found <= (97 if seeds == (1, 1) and tasks > 1 else 99.3), (first, second)
