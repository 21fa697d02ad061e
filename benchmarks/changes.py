"""How one figure of a model differs between two records, and whether that difference is one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.intervals import Estimate, estimate_ratio, newcombe_interval, paired_interval, z_score
from benchmarks.loads import Offline
from benchmarks.record import Latency, MeasuredAccuracy

CONFIDENCE: Final = 0.99
# Shares have no useful threshold in percent of themselves; a tenth of a point is what budgets of accuracy are written in.
LEAST_POINTS: Final = 0.001

Verdict = Literal["faster", "slower", "smaller", "larger", "better", "worse", "same", "no rounds", "not comparable"]


@dataclass(frozen=True)
class Figure:
    """What is compared.

    Attributes:
        less: Verdict where the new value is smaller.
        more: Verdict where it is larger.
        unit: Of the values in a record.
        sampled: Whether it is of many samples, so that a change has to be told from chance.
    """

    less: Verdict
    more: Verdict
    unit: str
    sampled: bool = True

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, whose change is a difference and not a ratio."""
        return self.unit == ""


_TIME: Final = Figure("faster", "slower", "ms")
_SHARE: Final = Figure("worse", "better", "")
FIGURES: Final[Mapping[str, Figure]] = {
    "p50": _TIME,
    "p90": _TIME,
    "p99": _TIME,
    "images_per_s": Figure("slower", "faster", "images/s"),
    "load": _TIME,
    "memory": Figure("smaller", "larger", "bytes", sampled=False),
    "size": Figure("smaller", "larger", "bytes", sampled=False),
    "top1": _SHARE,
    "agreement": _SHARE,
}
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# On two virtual cores that change their speed by themselves, over twenty pairs of runs of the same files, medians moved by up to 14 %
# (6 % for certain), p90 by up to 52 and p99 by up to 55 %: a verdict needs an interval that lies beyond the threshold, and tails more.
TAILS: Final = {"p90": 2.0, "p99": 4.0}
# How a tail differs from round to round is seen only where each has some calls beyond it: without them no change of it is certain.
BEYOND: Final = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of a model in two records.

    Attributes:
        figure: One of ``FIGURES``.
        batch_size: Images per call; None where that says nothing.
        threads: CPU threads; None where that says nothing.
        old: Value in the old record, in the unit of the figure; None where it has none.
        new: Value in the new record.
        change: ``new / old - 1``, or ``new - old`` of shares; None where they are not comparable.
        interval99: Interval that holds ``change`` with 99 % confidence; None where the records do not say how much the figure scatters.
        verdict: Other than ``same`` only where the change is both significant and large.
        reason: Why the figures are not comparable, or why nothing can be said of their difference; None otherwise.
        basis: What the interval rests on, where that is not the rounds.
    """

    figure: str
    verdict: Verdict
    batch_size: int | None = None
    threads: int | None = None
    old: float | None = None
    new: float | None = None
    change: float | None = None
    interval99: tuple[float, float] | None = None
    reason: str | None = None
    basis: str | None = None

    @property
    def significant(self) -> bool | None:
        """Whether the change is more than chance; None where nobody can know."""
        if self.change is None:
            return None
        if not FIGURES[self.figure].sampled:
            return self.change != 0
        return not self.interval99[0] <= 0 <= self.interval99[1] if self.interval99 is not None else None

    @property
    def conditions(self) -> str:
        """Batch size and threads in words; empty where they say nothing."""
        parts = [f"batch {self.batch_size}"] if self.batch_size is not None else []
        return ", ".join(parts + ([f"{self.threads} thread{'s' if self.threads != 1 else ''}"] if self.threads is not None else []))


def compare_latency(figure: str, old: Latency, new: Latency, threshold: float) -> Change:
    """Compare a percentile of two latencies at the same batch size and number of threads."""
    values = getattr(old, f"{figure}_ms"), getattr(new, f"{figure}_ms")
    before, after = ({number: calls for number, calls in entry.believed_rounds.items() if calls} for entry in (old, new))
    if before and after:
        estimate = estimate_ratio(after, before, CONFIDENCE, QUANTILES[figure])
        reason = "a record has fewer than three rounds that are believed"
    else:
        estimate = Estimate(values[1] / values[0], None)
        reason = f"the {'old' if not before else 'new'} record has no rounds"
    interval = (estimate.interval[0] - 1, estimate.interval[1] - 1) if estimate.interval is not None else None
    change = _judge(figure, *values, estimate.value - 1, interval, threshold, reason=reason)
    if interval is not None and not all(_reaches(rounds, QUANTILES[figure]) for rounds in (before, after)):
        change = replace(change, verdict="same", basis=f"fewer than {BEYOND} calls of a round lie beyond it, too few for a verdict")
    return replace(change, batch_size=old.batch_size, threads=old.threads)


def compare_offline(old: Offline, new: Offline, threshold: float) -> Change:
    """Compare throughput; a record keeps its interval and not its rounds, so the two intervals are put together."""
    interval = None
    if old.interval95 is not None and new.interval95 is not None:
        spreads = [math.log(high / low) / (2 * z_score(0.95)) for low, high in (old.interval95, new.interval95)]
        reach = math.exp(z_score(CONFIDENCE) * math.hypot(*spreads))
        ratio = new.images_per_s / old.images_per_s
        interval = (ratio / reach - 1, ratio * reach - 1)
    return _judge(
        "images_per_s",
        old.images_per_s,
        new.images_per_s,
        new.images_per_s / old.images_per_s - 1,
        interval,
        threshold,
        reason="a record has no interval of it",
        basis="the records' own intervals of the throughput, as of a lognormal distribution",
    )


def compare_single(figure: str, old: float, new: float, threshold: float) -> Change:
    """Compare figures of which a record holds one each: time to load, memory and size."""
    return _judge(
        figure, old, new, new / old - 1, None, threshold, reason="a record keeps one median of the loads and not how they scatter"
    )


def compare_share(
    figure: Literal["top1", "agreement"], old: MeasuredAccuracy, new: MeasuredAccuracy, pairs: tuple[int, int] | None
) -> Change | None:
    """Compare accuracies on the same images.

    Args:
        figure: Which one.
        old: Of the old record.
        new: Of the new one.
        pairs: Images that only the old model gets right and that only the new one does; None where the records do not tell, and the
            answers have to be taken as independent, which widens the interval.
    """
    field = "top1" if figure == "top1" else "agreement_with_original"
    before, after = getattr(old, field), getattr(new, field)
    if before is None or after is None:
        return None
    if pairs is not None:
        interval, basis = paired_interval(*pairs, old.count, CONFIDENCE), f"image by image: {pairs[0]} lost, {pairs[1]} gained"
    else:
        interval = newcombe_interval(before, after, old.count, new.count, CONFIDENCE)
        basis = "answers taken as independent (Newcombe), which is cautious: the records do not tell them image by image"
    return _judge(figure, before, after, after - before, interval, LEAST_POINTS, basis=basis)


def _judge(
    figure: str,
    old: float,
    new: float,
    change: float,
    interval: tuple[float, float] | None,
    threshold: float,
    *,
    reason: str | None = None,
    basis: str | None = None,
) -> Change:
    """A change with its verdict. Two keys: the change has to be significant, and as large as the threshold (as in asv).

    Of times and rates the interval as a whole has to lie beyond the threshold: the change is that large for certain.
    """
    kind = FIGURES[figure]
    threshold *= TAILS.get(figure, 1.0)
    # A tenth of a point that is computed as a difference of fractions may be a little less.
    large = abs(change) > threshold - 1e-9 if kind.is_share else not 1 / (1 + threshold) <= 1 + change <= 1 + threshold
    verdict: Verdict = "same"
    if kind.sampled and interval is None:
        verdict = "no rounds" if large or figure in QUANTILES else "same"
    elif large and (interval is None or _is_certain(interval, threshold=0.0 if kind.is_share else threshold)):
        verdict = kind.more if change > 0 else kind.less
    return Change(
        figure=figure,
        verdict=verdict,
        old=old,
        new=new,
        change=change,
        interval99=interval,
        reason=reason if verdict == "no rounds" else None,
        basis=basis if interval is not None else None,
    )


def _is_certain(interval: tuple[float, float], threshold: float) -> bool:
    """Whether an interval lies beyond a threshold, up or down, as a whole."""
    return 1 + interval[0] > 1 + threshold or 1 + interval[1] < 1 / (1 + threshold)


def _reaches(rounds: Mapping[int, Sequence[float]], quantile: float) -> bool:
    """Whether rounds have enough calls beyond a quantile, on average."""
    return sum(map(len, rounds.values())) * (1 - quantile) >= BEYOND * len(rounds)
