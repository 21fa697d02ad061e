"""How sure a figure is: intervals over rounds, of proportions, and a paired test. Arithmetic on numbers alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 2000
# Two rounds say nothing about how much rounds differ.
LEAST_ROUNDS: Final = 3
# A percentile needs samples beyond it: 64 for the 90th and 662 for the 99th to hold with 95 % confidence (MLPerf inference).
SAMPLES_FOR_P90: Final = 64
SAMPLES_FOR_P99: Final = 662
# Otsu's share of the variance that lies between two groups: 0.64 for a normal distribution cut in its middle, 0.75 for a uniform one.
TWO_GROUPS: Final = 0.85
LEVELS_APART: Final = 1.10
SMALLEST_LEVEL: Final = 0.05

Rounds = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Estimate:
    """A figure and an interval that holds it with some confidence; None where there are too few rounds for one."""

    value: float
    interval: tuple[float, float] | None


def estimate_median(rounds: Rounds, confidence: float = 0.95) -> Estimate:
    """Median of all calls; its interval is from resampled rounds, since the calls of a round are not independent."""
    value = float(np.median(np.concatenate([np.asarray(times) for times in rounds.values()])))
    if len(rounds) < LEAST_ROUNDS:
        return Estimate(value, None)
    counts = _resample(len(rounds), seed=0)
    return Estimate(value, _interval(_medians(list(rounds.values()), counts), confidence))


def estimate_paired_ratio(above: Rounds, below: Rounds, confidence: float = 0.95) -> Estimate:
    """Ratio of two medians of one benchmark, over the rounds that both have: they drift together, so they are resampled together.

    Raises:
        ValueError: If they have no round in common.
    """
    common = sorted(above.keys() & below.keys())
    if not common:
        raise ValueError("no round in common")
    tops, bottoms = [above[number] for number in common], [below[number] for number in common]
    value = float(np.median(np.concatenate(tops)) / np.median(np.concatenate(bottoms)))
    if len(common) < LEAST_ROUNDS:
        return Estimate(value, None)
    counts = _resample(len(common), seed=0)
    return Estimate(value, _interval(_medians(tops, counts) / _medians(bottoms, counts), confidence))


def estimate_ratio(above: Rounds, below: Rounds, confidence: float = 0.95, quantile: float = 0.5) -> Estimate:
    """Ratio of the medians, or of another quantile, of two benchmarks that know nothing of each other."""
    tops, bottoms = list(above.values()), list(below.values())
    value = float(np.quantile(np.concatenate(tops), quantile) / np.quantile(np.concatenate(bottoms), quantile))
    if min(len(tops), len(bottoms)) < LEAST_ROUNDS:
        return Estimate(value, None)
    ratios = _quantiles(tops, _resample(len(tops), seed=0), quantile) / _quantiles(bottoms, _resample(len(bottoms), seed=1), quantile)
    return Estimate(value, _interval(ratios, confidence))


def find_levels(times: Sequence[float]) -> tuple[float, float] | None:
    """Two levels that times lie at, as processors whose clock or neighbours change have; None where they lie around one.

    The cut is the one that leaves the least variance within the two groups (Otsu, 1979), of the logarithms.

    Returns:
        Median of the lower and of the upper group, at least a tenth apart and with at least a twentieth of the times each.
    """
    values: NDArray[np.float64] = np.sort(np.log(np.asarray(times, np.float64)))
    count = len(values)
    least = max(4, math.ceil(SMALLEST_LEVEL * count))
    if count < 2 * least:
        return None
    spread = float(values.var())
    if spread == 0:
        return None
    sizes = np.arange(1, count)
    sums = np.cumsum(values)[:-1]
    apart = (values.sum() - sums) / (count - sizes) - sums / sizes
    between = sizes * (count - sizes) / count**2 * apart**2
    cut = least + int(np.argmax(between[least - 1 : count - least]))
    low, high = float(np.exp(np.median(values[:cut]))), float(np.exp(np.median(values[cut:])))
    if between[cut - 1] / spread < TWO_GROUPS or high < LEVELS_APART * low:
        return None
    return low, high


def wilson_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson, 1927), both ends in 0 to 1."""
    z = z_score(confidence)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe_interval(old: float, new: float, old_count: int, new_count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of ``new`` - ``old``, two independent proportions, from Wilson's of each (Newcombe, 1998, method 10)."""
    old_low, old_high = wilson_interval(old, old_count, confidence)
    new_low, new_high = wilson_interval(new, new_count, confidence)
    difference = new - old
    return difference - math.hypot(new - new_low, old_high - old), difference + math.hypot(new_high - new, old - old_low)


def paired_interval(only_old: int, only_new: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the difference of two proportions of the same items (Agresti and Min, 2005).

    Args:
        only_old: Items that only the old one gets right.
        only_new: Items that only the new one gets right.
        count: All items.
        confidence: Of the interval.
    """
    total, fewer, more = count + 2, only_old + 0.5, only_new + 0.5
    centre = (more - fewer) / total
    half = z_score(confidence) * math.sqrt((more + fewer) - (more - fewer) ** 2 / total) / total
    return centre - half, centre + half


def z_score(confidence: float) -> float:
    """Standard deviations from the mean of a normal distribution within which this share of it lies."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test: the probability of a split of discordant pairs at least as uneven as this one, if either side were as likely.

    Args:
        only_first: Pairs that only the first one gets right.
        only_second: Pairs that only the second one gets right.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean for ratios: of twice and half as fast it is 1."""
    return float(np.exp(np.mean(np.log(ratios))))


def _resample(rounds: int, seed: int) -> NDArray[np.int64]:
    """How often each round is drawn: (resamples, rounds), fixed by the seed, so that a record gives the same figures every time."""
    drawn = np.random.default_rng(seed).integers(0, rounds, (RESAMPLES, rounds))
    counts = np.zeros((RESAMPLES, rounds), np.int64)
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return counts


def _medians(rounds: Sequence[Sequence[float]], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return _quantiles(rounds, counts, 0.5)


def _quantiles(rounds: Sequence[Sequence[float]], counts: NDArray[np.int64], quantile: float) -> NDArray[np.float64]:
    """A quantile of all calls for each way of drawing rounds: the first sorted call at which that share of the weight is reached."""
    times = np.concatenate([np.asarray(part, np.float64) for part in rounds])
    owners = np.repeat(np.arange(len(rounds)), [len(part) for part in rounds])
    order = np.argsort(times, kind="stable")
    reached = np.cumsum(owners[order] == np.arange(len(rounds))[:, None], axis=1)
    wanted = quantile * (counts @ reached[:, -1])
    low, high = np.zeros(len(counts), np.int64), np.full(len(counts), len(times) - 1)
    # By halves, for all ways of drawing at once: 20 times as fast as adding up the weights of each.
    while (low < high).any():
        middle = (low + high) // 2
        enough = (counts * reached[:, middle].T).sum(1) >= wanted
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return times[order][low]


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)
