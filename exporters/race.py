"""Which of two models is faster, on a machine that does other things too."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgeresnet.progress import Track, silent
from edgeresnet.timing import time_calls

# Both run in turns for such short bursts that whatever else the machine does meets both alike; the ratio of a round's medians is
# compared with 1, and what one round says is outvoted by the others.
ROUNDS: Final = 9
BURST_SECONDS: Final = 0.06
MIN_CALLS: Final = 2
# More rounds where the ratio is as near to 1 as this.
UNDECIDED: Final = 0.06
MAX_ROUNDS: Final = 36


@dataclass(frozen=True, kw_only=True)
class RaceResult:
    """Times of a call of two contestants that ran in turns.

    Attributes:
        first_ms: Median of the first.
        second_ms: Of the second.
        speedup: Median of the rounds' ratios, of the first's time over the second's.
    """

    first_ms: float
    second_ms: float
    speedup: float


def race(first: Callable[[], object], second: Callable[[], object], track: Track = silent) -> RaceResult:
    """Time two calls in turns, in more rounds where it is close."""
    for call in (first, second):
        time_calls(call, seconds=0, least=MIN_CALLS)  # what only the first calls do
    rounds: list[tuple[float, float]] = []
    while len(rounds) < MAX_ROUNDS:
        rounds += [_run_round(first, second, swapped=bool(i % 2)) for i in track(range(ROUNDS), "timing")]
        if abs(_speedup(rounds) - 1) > UNDECIDED:
            break
    return RaceResult(
        first_ms=statistics.median(first_ms for first_ms, _ in rounds),
        second_ms=statistics.median(second_ms for _, second_ms in rounds),
        speedup=_speedup(rounds),
    )


def _run_round(first: Callable[[], object], second: Callable[[], object], *, swapped: bool) -> tuple[float, float]:
    calls = (second, first) if swapped else (first, second)
    times = [statistics.median(time_calls(call, seconds=BURST_SECONDS, least=MIN_CALLS)) for call in calls]
    return (times[1], times[0]) if swapped else (times[0], times[1])


def _speedup(rounds: list[tuple[float, float]]) -> float:
    return statistics.median(first / second for first, second in rounds)
