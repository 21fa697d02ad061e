"""Intervals, levels and tests hold against scipy and against what was simulated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.intervals import (
    estimate_median,
    estimate_paired_ratio,
    estimate_ratio,
    find_levels,
    geometric_mean,
    mcnemar,
    wilson_interval,
)


def simulate(generator, drifts, level=1.0, calls=40):
    """Rounds of calls around a level; those of a round share its drift."""
    return {number: list(level * drift * generator.gamma(400, 1 / 400, calls)) for number, drift in enumerate(drifts)}


def test_the_interval_of_a_median_is_over_rounds_and_not_over_calls():
    """Calls of a round are alike: a thousand of them know no more of the machine than their few rounds."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        estimate = estimate_median(simulate(generator, np.exp(generator.normal(0, 0.05, 10)), calls=60))
        held += estimate.interval[0] <= 1 <= estimate.interval[1]
    assert held >= 48
    assert 0.02 < (estimate.interval[1] - estimate.interval[0]) < 0.2


def test_a_ratio_is_of_rounds_that_drift_together():
    generator = np.random.default_rng(1)
    held, widths = 0, []
    for _ in range(60):
        drifts = np.exp(generator.normal(0, 0.2, 10))
        estimate = estimate_paired_ratio(simulate(generator, drifts, 3.0), simulate(generator, drifts))
        held += estimate.interval[0] <= 3 <= estimate.interval[1]
        widths.append(estimate.interval[1] - estimate.interval[0])
    assert held >= 50
    apart = estimate_ratio(
        simulate(generator, np.exp(generator.normal(0, 0.2, 10)), 3.0), simulate(generator, np.exp(generator.normal(0, 0.2, 10)))
    )
    assert np.median(widths) < (apart.interval[1] - apart.interval[0]) / 2


def test_only_rounds_that_both_have_count():
    above, below = {0: [4.0, 4.0], 1: [100.0], 2: [4.0], 5: [4.0]}, {0: [2.0], 2: [2.0, 2.0], 4: [100.0], 5: [2.0]}
    estimate = estimate_paired_ratio(above, below)
    assert (estimate.value, estimate.interval) == (2.0, (2.0, 2.0))
    assert estimate_paired_ratio({0: [3.0], 1: [3.0]}, {0: [1.0], 1: [1.0]}).interval is None
    with pytest.raises(ValueError, match="no round in common"):
        estimate_paired_ratio({0: [1.0]}, {1: [1.0]})


def test_a_wider_confidence_is_a_wider_interval_and_figures_repeat():
    rounds = simulate(np.random.default_rng(2), [0.9, 1.0, 1.1, 1.2, 0.8])
    low, high = estimate_median(rounds).interval
    lower, higher = estimate_median(rounds, 0.99).interval
    assert lower <= low < high <= higher
    assert estimate_median(rounds).interval == (low, high)
    assert estimate_median(rounds).value == pytest.approx(np.median([value for times in rounds.values() for value in times]))


def test_two_levels_are_found_where_there_are_two():
    generator = np.random.default_rng(3)
    two = [*generator.normal(2.3, 0.05, 300), *generator.normal(3.6, 0.1, 100)]
    assert find_levels(two) == pytest.approx((2.3, 3.6), rel=0.02)
    assert find_levels([*generator.normal(2.3, 0.05, 300), *generator.normal(9, 0.1, 5)]) is None, "a few slow calls are no level"
    assert find_levels([*generator.normal(2.3, 0.01, 300), *generator.normal(2.45, 0.01, 300)]) is None, "less than a tenth apart"


@pytest.mark.parametrize("draw", ["normal", "gamma", "lognormal", "uniform"])
def test_one_level_is_not_taken_for_two(draw):
    arguments = {"normal": (10, 1), "gamma": (2, 3), "lognormal": (0, 0.5), "uniform": (1, 2)}[draw]
    for seed in range(20):
        assert find_levels(getattr(np.random.default_rng(seed), draw)(*arguments, 640)) is None
    assert find_levels([1.0] * 64) is None
    assert find_levels([1.0, 5.0]) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_test_is_the_exact_one(first, second):
    expected = stats.binomtest(min(first, second), first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 20_000), st.floats(0, 1))
def test_the_interval_is_scipys(count, share):
    right = round(share * count)
    low, high = wilson_interval(right / count, count)
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_the_geometric_mean_is_scipys(ratios):
    assert geometric_mean(ratios) == pytest.approx(stats.gmean(ratios))
