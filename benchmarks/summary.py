"""From the rounds of a model to the figures of a record, and whether they are to be believed."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import Usage
from benchmarks.intervals import LEAST_ROUNDS, SAMPLES_FOR_P90, SAMPLES_FOR_P99, estimate_median, estimate_paired_ratio
from benchmarks.record import Latency, Round

# Figures are of rounds in which nothing else had the cores, if there are so many; as many rounds again are measured to find them.
BELIEVED_ROUNDS: Final = 5


@dataclass(frozen=True)
class Case:
    """What a call is: so many images, on so many CPU threads; None leaves the threads as the model's own target has them."""

    batch_size: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Visit:
    """One round of one case: milliseconds of calls, how many were made before them, and who had the cores meanwhile."""

    number: int
    started_s: float
    warmup_calls: int
    calls_ms: list[float]
    device_ms: list[float]
    usage: Usage

    @property
    def round(self) -> Round:
        """What a record keeps of it beside the times."""
        usage = self.usage
        return Round(
            samples=len(self.calls_ms),
            started_s=round(self.started_s, 3),
            cores_used=round(usage.cores_used, 3),
            waited=_rounded(usage.waited),
            others=_rounded(usage.others),
            stolen=_rounded(usage.stolen),
            doubt=usage.doubt,
        )


def summarize(visits: Sequence[Visit], case: Case, threads: int, original: Sequence[Visit] | None) -> Latency:
    """Turn the rounds of a subject into the figures of a record.

    Args:
        visits: At least one.
        case: What was called.
        threads: CPU threads that a call could use.
        original: Rounds of what it is compared with; None where there is nothing, or nothing comparable.
    """
    doubt = find_doubt(visits)
    rounds = select(visits)
    times: NDArray[np.float64] = np.concatenate([np.asarray(part) for part in rounds.values()])
    median = estimate_median(rounds)
    speedup = None
    if original is not None and doubt is None:
        against = find_doubt(original)
        theirs = select(original)
        if against is not None:
            doubt = f"the original's time is not believed: {against}"
        elif len(rounds.keys() & theirs.keys()) < min(LEAST_ROUNDS, len(rounds)):
            doubt = "it was never quiet for this model and the original in the same rounds"
        else:
            speedup = estimate_paired_ratio(theirs, rounds)
    device_ms = [value for visit in visits for value in visit.device_ms]
    return Latency(
        batch_size=case.batch_size,
        threads=threads,
        p50_ms=median.value,
        p50_interval95=median.interval,
        p90_ms=float(np.percentile(times, 90)) if len(times) >= SAMPLES_FOR_P90 else None,
        p99_ms=float(np.percentile(times, 99)) if len(times) >= SAMPLES_FOR_P99 else None,
        mean_ms=float(times.mean()),
        std_ms=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        samples=len(times),
        images_per_s=1000 * case.batch_size / median.value,
        speedup_vs_original=speedup.value if speedup else None,
        speedup_interval95=speedup.interval if speedup else None,
        device_p50_ms=statistics.median(device_ms) if device_ms else None,
        doubt=doubt,
        warmup_calls=sum(visit.warmup_calls for visit in visits),
        rounds=[visit.round for visit in visits],
        samples_ms=[round(value, 4) for visit in visits for value in visit.calls_ms],
    )


def find_doubt(visits: Sequence[Visit]) -> str | None:
    """Why times should not be believed: too few of the rounds were quiet."""
    doubts = Counter(visit.usage.doubt for visit in visits if visit.usage.doubt is not None)
    if not doubts or len(visits) - doubts.total() >= min(BELIEVED_ROUNDS, math.ceil(len(visits) / 2)):
        return None
    return f"the machine was busy in {doubts.total()} of {len(visits)} rounds: {doubts.most_common(1)[0][0]}"


def select(visits: Sequence[Visit]) -> dict[int, list[float]]:
    """Times of the calls of each round that the figures are of, by its number."""
    believes_all = find_doubt(visits) is not None
    return {visit.number: visit.calls_ms for visit in visits if believes_all or visit.usage.doubt is None}


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if value is not None else None
