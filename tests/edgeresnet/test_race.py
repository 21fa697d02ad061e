import itertools
import time

import numpy as np
import pytest

import edgeresnet.race
from edgeresnet.race import DOUBT, bound_median, estimate_speedup, race


def sleeping(milliseconds):
    return lambda: lambda: time.sleep(milliseconds / 1000)


def test_the_faster_one_is_found_for_certain():
    result = race(sleeping(4), sleeping(2))
    assert result.lower > 1.3
    assert result.lower <= result.speedup <= result.upper
    assert race(sleeping(2), sleeping(4)).upper < 0.8


def test_what_is_as_fast_is_not_called_faster(monkeypatch):
    monkeypatch.setattr(edgeresnet.race, "MAX_ROUNDS", 18)
    result = race(sleeping(2), sleeping(2))
    assert result.speedup == pytest.approx(1, abs=0.1)
    assert result.lower < 1.02


def test_luck_that_lasts_as_long_as_a_session_decides_nothing(monkeypatch):
    """A session of the second is twice as fast as the first or half as fast, and stays so: only those that are opened later tell."""
    monkeypatch.setattr(edgeresnet.race, "MAX_ROUNDS", 18)
    luck = itertools.cycle([1, 4])

    def second():
        return sleeping(next(luck))()

    result = race(sleeping(2), second)
    assert result.lower < 0.7
    assert result.upper > 1.5


@pytest.mark.parametrize(("least", "rounds"), [(1, 9), (3, 18), (5, 9)])
def test_it_goes_on_until_it_is_clear_whether_the_second_is_so_many_times_as_fast(monkeypatch, least, rounds):
    """Twice or four times as fast, by turns."""
    monkeypatch.setattr(edgeresnet.race, "MAX_ROUNDS", 18)
    luck, opened = itertools.cycle([2, 1]), []

    def second():
        opened.append(second)
        return sleeping(next(luck))()

    race(sleeping(4), second, least=least)
    assert len(opened) == rounds


def test_a_few_rounds_estimate_the_ratio():
    assert estimate_speedup(sleeping(4), sleeping(2)) == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("count", [9, 27, 54])
def test_the_bounds_of_a_median_fail_as_rarely_as_they_say(count):
    """Of skewed values, whose median is known."""
    values = np.random.default_rng(0).exponential(size=(4000, count))
    bounds = np.array([bound_median(list(row)) for row in values])
    median = np.log(2)
    assert (bounds[:, 0] > median).mean() <= 2 * DOUBT
    assert (bounds[:, 1] < median).mean() <= 2 * DOUBT
