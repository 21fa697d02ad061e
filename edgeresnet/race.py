"""Which of two models is faster, on a machine that does other things too."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeresnet.progress import Track, silent
from edgeresnet.timing import time_calls

# Both run in turns for such short bursts that whatever else the machine does meets both alike. Of a burst counts what a quarter of its
# calls stay below: other programs only ever make a call slower. What one round says is outvoted.
# Each round opens both anew: where a session's values lie in memory makes it faster or slower for as long as it lives. In
# eight sessions of one ShuffleNetV2 a call took 6.4 to 8.4 ms, within one they differed by 9 %.
ROUNDS: Final = 9
FEW_ROUNDS: Final = 5
BURST_SECONDS: Final = 0.06
MIN_CALLS: Final = 3
QUANTILE: Final = 0.25
# More rounds until it is certain.
MAX_ROUNDS: Final = 54
DOUBT: Final = 0.005

# Opens a contestant, and gives what is timed.
Open = Callable[[], Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class RaceResult:
    """Times of a call of two contestants that ran in turns.

    Attributes:
        first_ms: Median of the first.
        second_ms: Of the second.
        speedup: Median of the rounds' ratios, of the first's time over the second's.
        lower: What that median is at least, with a doubt of ``DOUBT``, whatever the distribution of the ratios.
        upper: At most.
    """

    first_ms: float
    second_ms: float
    speedup: float
    lower: float
    upper: float


def race(first: Open, second: Open, track: Track = silent, *, least: float = 1.0) -> RaceResult:
    """Time two calls in turns, until it is certain whether the second is so many times as fast, or in ``MAX_ROUNDS`` rounds."""
    rounds: list[tuple[float, float]] = []
    while True:
        rounds += [_run_round(first, second, swapped=bool(i % 2)) for i in track(range(ROUNDS), "timing")]
        lower, upper = bound_median([first_ms / second_ms for first_ms, second_ms in rounds])
        if len(rounds) >= MAX_ROUNDS or lower > least or upper < least:
            break
    return RaceResult(
        first_ms=statistics.median(first_ms for first_ms, _ in rounds),
        second_ms=statistics.median(second_ms for _, second_ms in rounds),
        speedup=statistics.median(first_ms / second_ms for first_ms, second_ms in rounds),
        lower=lower,
        upper=upper,
    )


def estimate_speedup(first: Open, second: Open, track: Track = silent) -> float:
    """The first's time over the second's, from a few rounds: enough to choose between two forms of a model."""
    rounds = [_run_round(first, second, swapped=bool(i % 2)) for i in track(range(FEW_ROUNDS), "timing")]
    return statistics.median(first_ms / second_ms for first_ms, second_ms in rounds)


def bound_median(values: list[float]) -> tuple[float, float]:
    """Between which of the values the median of what they are drawn from lies, with a doubt of ``DOUBT`` on each side.

    Each value is below it or above it with even chances, so how many are below is binomial. Eight values or more are needed.
    """
    ordered, count = sorted(values), len(values)
    below = np.cumsum([math.comb(count, i) for i in range(count)]) / 2**count
    index = int(np.searchsorted(below, DOUBT, side="right")) - 1
    return ordered[index], ordered[-1 - index]


def _run_round(first: Open, second: Open, *, swapped: bool) -> tuple[float, float]:
    calls = [contestant() for contestant in ((second, first) if swapped else (first, second))]
    for call in calls:
        time_calls(call, seconds=0, least=MIN_CALLS)
    times = [float(np.quantile(time_calls(call, seconds=BURST_SECONDS, least=MIN_CALLS), QUANTILE)) for call in calls]
    return (times[1], times[0]) if swapped else (times[0], times[1])
