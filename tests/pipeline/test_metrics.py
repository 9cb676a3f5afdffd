import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from pipeline.metrics import Estimate, macro_average, paired_difference, wilson
from wam.errors import WamError


@pytest.mark.parametrize(("k", "n"), [(0, 29), (9, 10), (17, 29), (29, 29), (1, 1)])
def test_wilson_matches_the_closed_form(k, n):
    z = norm.ppf(0.975)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    estimate = wilson(k, n)
    assert estimate == pytest.approx((p, centre - half, centre + half), abs=1e-12)
    assert estimate.low <= p <= estimate.high


def test_wilson_of_nine_out_of_ten():
    assert wilson(9, 10) == pytest.approx((0.9, 0.596, 0.982), abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(WamError, match="out of"):
        wilson(k, n)


def test_macro_average_of_one_task_is_that_task():
    one = wilson(7, 29)
    assert macro_average([one]) == pytest.approx(one)


def test_macro_average_narrows_with_equal_independent_tasks():
    one = wilson(7, 29)
    four = macro_average([one] * 4)
    assert four.value == pytest.approx(one.value)
    assert four.low == pytest.approx(one.value - (one.value - one.low) / 2)
    assert four.high == pytest.approx(one.value + (one.high - one.value) / 2)


def test_macro_average_weighs_tasks_and_not_episodes():
    assert macro_average([wilson(0, 10), wilson(90, 90)]).value == pytest.approx(0.5)


def test_paired_difference_matches_scipy_on_one_task():
    rng = np.random.default_rng(0)
    first, second = rng.integers(2, size=40), rng.integers(2, size=40)
    ours = paired_difference([first], [second], np.random.default_rng(1), resamples=20_000)
    theirs = bootstrap(
        (first, second),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx((first - second).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_paired_difference_cancels_the_difficulty_of_a_start():
    starts = np.array([0, 1] * 20)
    assert paired_difference([starts], [starts], np.random.default_rng(0)) == Estimate(0, 0, 0)


def test_paired_difference_of_several_tasks_is_normal_for_many_starts():
    rng = np.random.default_rng(0)
    tasks = [(rng.integers(2, size=300), rng.integers(2, size=300)) for _ in range(3)]
    first, second = zip(*tasks, strict=True)
    estimate = paired_difference(first, second, np.random.default_rng(1))
    variance = sum(np.var(a - b) / len(a) for a, b in tasks) / 9
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert estimate.value == pytest.approx(np.mean([(a - b).mean() for a, b in tasks]))
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.05)


def test_paired_difference_refuses_different_starts():
    with pytest.raises(WamError, match="3 against 2 start states"):
        paired_difference([np.ones(3)], [np.ones(2)], np.random.default_rng(0))
