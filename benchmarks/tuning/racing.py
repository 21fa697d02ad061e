"""Which of the ways that answer closely enough is the fastest."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Final

from benchmarks.tuning.judging import Judged
from benchmarks.tuning.space import Goal
from edgeresnet.images import Pixels
from edgeresnet.progress import Track
from edgeresnet.timing import time_calls

# Images of a call, by what is sought: the answer to one image as soon as possible, or many images as fast as possible.
IMAGES_PER_CALL: Final = {"latency": 1, "throughput": 64}
# A round times every candidate that is left, then drops the slower half: those of the first rounds had little time, but the fastest
# is rarely twice as slow by chance. What is within TIE of the fastest stays: rounds that follow are longer and tell them apart.
TIE: Final = 1.05
FINALISTS: Final = 3
FINAL_ROUNDS: Final = 4
FIRST_SLICE_S: Final = 0.25
FINAL_SLICE_S: Final = 2.5


@dataclass(frozen=True, kw_only=True)
class Raced:
    """A way that was timed.

    Attributes:
        judged: The way and its answers.
        images_per_call: Images of a timed call.
        calls_ms: Times of calls.
    """

    judged: Judged
    images_per_call: int
    calls_ms: tuple[float, ...] = ()

    @property
    def p50_ms(self) -> float:
        """Median time of a call."""
        return statistics.median(self.calls_ms)

    @property
    def images_per_s(self) -> float:
        """Images of a call over that time."""
        return 1000 * self.images_per_call / self.p50_ms


def race(judged: Sequence[Judged], batch: Pixels, goal: Goal, track: Track) -> list[Raced]:
    """Time the candidates in rounds, and drop the slower half after each.

    Returns:
        Those that were timed to the end, the fastest in front, then the others, those in front that were dropped last.
    """
    deadline = time.perf_counter() + goal.budget_s
    left = [Raced(judged=each, images_per_call=len(batch)) for each in judged]
    dropped: list[Raced] = []
    slice_s = FIRST_SLICE_S
    while len(left) > FINALISTS and not goal.exhaustive:
        timed = [_time(each, batch, slice_s) for each in track(left, f"timing {len(left)} candidates")]
        timed.sort(key=lambda each: each.p50_ms)
        tied = sum(each.p50_ms < TIE * timed[0].p50_ms for each in timed)
        keep = max(FINALISTS, len(timed) // 2, tied)
        left, dropped, slice_s = timed[:keep], timed[keep:] + dropped, 2 * slice_s
        if keep == len(timed) or time.perf_counter() > deadline:
            break
    finalists = [replace(each, calls_ms=()) for each in left]
    for _, i in track(list(product(range(FINAL_ROUNDS), range(len(finalists)))), f"timing {len(finalists)} finalists"):
        finalists[i] = _time(finalists[i], batch, FINAL_SLICE_S)
        if time.perf_counter() > deadline and all(each.calls_ms for each in finalists) and not goal.exhaustive:
            break
    return sorted(finalists, key=lambda each: each.p50_ms) + dropped


def _time(raced: Raced, batch: Pixels, seconds: float) -> Raced:
    session = raced.judged.subject.load()
    try:
        session.logits(batch)
        calls_ms = time_calls(partial(session.logits, batch), seconds=seconds)
    finally:
        session.close()
    return replace(raced, calls_ms=(*raced.calls_ms, *calls_ms))
