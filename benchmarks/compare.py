"""Two records side by side: which of their figures can be compared, and what has changed."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.changes import (
    CONFIDENCE,
    LEAST_POINTS,
    QUANTILES,
    Change,
    compare_latency,
    compare_offline,
    compare_share,
    compare_single,
)
from benchmarks.hindrances import doubted, other_data, other_machine, other_way, senseless
from benchmarks.intervals import geometric_mean
from benchmarks.record import MeasuredAccuracy, Record, Result

SCHEMA: Final = "edgeresnet.comparison/1"
# Settings that change what is measured, and that a reader may have changed on purpose.
_TELLING_SETTINGS: Final = ("streams", "micro_batch", "exact", "force", "provider_options")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One model in both records.

    Attributes:
        name: In the new record.
        old_name: In the old record; another one where the two were matched by precision and runtime.
        changes: Its figures.
        reason: Why nothing of it is comparable; None otherwise.
        broke: Whether that is because it could be measured for the old record and no longer for the new one.
    """

    name: str
    old_name: str
    changes: list[Change]
    reason: str | None = None
    broke: bool = False


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What has changed from one record to another.

    Attributes:
        threshold: How large a change has to be, as a fraction.
        pairs: The models that both records have.
        only_old: Names of the models that only the old record has.
        only_new: Names of the models that only the new record has.
        remarks: What a reader should know of the two records.
    """

    threshold: float
    pairs: list[Pair]
    only_old: list[str]
    only_new: list[str]
    remarks: list[str]

    @property
    def changes(self) -> Iterator[tuple[Pair, Change]]:
        """Every figure with its model."""
        return ((pair, change) for pair in self.pairs for change in pair.changes)

    @property
    def same(self) -> int:
        """Number of figures whose change is not both significant and large."""
        return sum(change.verdict == "same" for _, change in self.changes)

    @property
    def p50_ratios(self) -> list[float]:
        """New median over old one, wherever both can be compared."""
        return [1 + change.change for _, change in self.changes if change.figure == "p50" and change.change is not None]

    def describe(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        ratios = self.p50_ratios
        return {
            "schema": SCHEMA,
            "confidence": CONFIDENCE,
            "threshold": self.threshold,
            "threshold_of_shares": LEAST_POINTS,
            **{name: value for name, value in asdict(self).items() if name != "threshold"},
            "same": self.same,
            "p50_geometric_mean": geometric_mean(ratios) if ratios else None,
            "p50_count": len(ratios),
        }


def compare_records(old: Record, new: Record, threshold: float = 0.05) -> Comparison:
    """Compare every figure that two records both have.

    Args:
        old: What was.
        new: What is.
        threshold: How large a change of a time, throughput or number of bytes has to be, as a fraction.
    """
    matched = list(_match(old.results, new.results))
    before, after = {id(one) for one, _ in matched}, {id(other) for _, other in matched}
    return Comparison(
        threshold=threshold,
        pairs=[_compare_pair(old, new, one, other, threshold) for one, other in matched],
        only_old=[result.name for result in old.results if id(result) not in before],
        only_new=[result.name for result in new.results if id(result) not in after],
        remarks=_remark(old, new),
    )


def _match(old: list[Result], new: list[Result]) -> Iterator[tuple[Result, Result]]:
    """Models of the same name; of the rest, those that alone have their precision and runtime in either record."""
    names = [_number([result.name for result in results]) for results in (old, new)]
    kinds = [Counter((result.precision, result.runtime) for result in results) for results in (old, new)]
    taken = set(names[0]) & set(names[1])
    for name, index in names[1].items():
        result = new[index]
        if name in taken:
            yield old[names[0][name]], result
            continue
        kind = result.precision, result.runtime
        alike = [old[i] for other, i in names[0].items() if other not in taken and (old[i].precision, old[i].runtime) == kind]
        if alike and kinds[0][kind] == kinds[1][kind] == 1:
            yield alike[0], result


def _number(names: list[str]) -> dict[tuple[str, int], int]:
    """Place of each name, which files in several folders may share: (name, how many of that name came before) to index."""
    seen: Counter[str] = Counter()
    places = {}
    for i, name in enumerate(names):
        places[name, seen[name]] = i
        seen[name] += 1
    return places


def _compare_pair(old: Record, new: Record, before: Result, after: Result, threshold: float) -> Pair:
    failed = [f"failed in the {which} record ({result.error})" for which, result in (("old", before), ("new", after)) if result.error]
    weights = before.checkpoint_sha256, after.checkpoint_sha256
    if failed:
        broke = before.error is None
        return Pair(name=after.name, old_name=before.name, changes=[], reason="; ".join(failed), broke=broke)
    if None not in weights and weights[0] != weights[1]:
        reason = f"other weights ({str(weights[0])[:12]} and {str(weights[1])[:12]})"
        return Pair(name=after.name, old_name=before.name, changes=[], reason=reason)
    elsewhere = other_machine(old, new) or other_way(before, after)
    changes = [
        *_compare_speeds(before, after, threshold, elsewhere),
        *_compare_throughput(old, new, before, after, threshold, elsewhere),
        *_compare_singles(before, after, threshold, elsewhere),
        *_compare_answers(old, new, before, after),
    ]
    return Pair(name=after.name, old_name=before.name, changes=changes)


def _compare_speeds(before: Result, after: Result, threshold: float, elsewhere: str | None) -> Iterator[Change]:
    earlier, later = ({(entry.batch_size, entry.threads): entry for entry in result.latency} for result in (before, after))
    for place in sorted(earlier.keys() | later.keys()):
        old, new = earlier.get(place), later.get(place)
        if old is None or new is None:
            reason = f"measured for the {'new' if old is None else 'old'} record only"
            yield _not_comparable("p50", old.p50_ms if old else None, new.p50_ms if new else None, reason, place)
            continue
        hindrance = elsewhere or doubted(old, new) or senseless(old.p50_ms, new.p50_ms, *old.samples_ms, *new.samples_ms)
        for figure in QUANTILES:
            values = getattr(old, f"{figure}_ms"), getattr(new, f"{figure}_ms")
            if None in values:
                continue
            yield _not_comparable(figure, *values, hindrance, place) if hindrance else compare_latency(figure, old, new, threshold)


def _compare_throughput(
    old: Record, new: Record, before: Result, after: Result, threshold: float, elsewhere: str | None
) -> Iterator[Change]:
    if before.offline is None or after.offline is None:
        return
    cores = [record.environment.get("cores_allowed") for record in (old, new)]
    rates = [rate for one in (before.offline, after.offline) for rate in (one.images_per_s, *(one.interval95 or ()))]
    reason = (
        elsewhere
        or (f"other number of cores ({cores[0]} and {cores[1]})" if cores[0] != cores[1] else None)
        or doubted(before.offline, after.offline)
        or senseless(*rates)
    )
    values = before.offline.images_per_s, after.offline.images_per_s
    yield _not_comparable("images_per_s", *values, reason) if reason else compare_offline(before.offline, after.offline, threshold)


def _compare_singles(before: Result, after: Result, threshold: float, elsewhere: str | None) -> Iterator[Change]:
    for figure, old, new, reason in (
        ("load", before.load_ms, after.load_ms, elsewhere),
        ("memory", before.peak_memory_bytes, after.peak_memory_bytes, elsewhere),
        ("size", before.size_bytes, after.size_bytes, None),
    ):
        if old is not None and new is not None:
            hindrance = reason or senseless(old, new)
            yield _not_comparable(figure, old, new, hindrance) if hindrance else compare_single(figure, old, new, threshold)


def _compare_answers(old: Record, new: Record, before: Result, after: Result) -> Iterator[Change]:
    earlier, later = before.accuracy, after.accuracy
    if earlier is None or later is None:
        return
    reason = other_data(earlier, later)
    known = reason is None and _same_original(old, new)
    for figure, success in (("top1", _is_right), ("agreement", _agrees)):
        if reason is not None:
            field = "top1" if figure == "top1" else "agreement_with_original"
            values = getattr(earlier, field), getattr(later, field)
            if None not in values:
                yield _not_comparable(figure, *values, reason)
            continue
        pairs = _pair_answers(earlier, later, success) if known else None
        change = compare_share("top1" if figure == "top1" else "agreement", earlier, later, pairs)
        if change is not None:
            yield change


def _is_right(truth: str | None, original: str, answer: str) -> bool:
    return answer == truth


def _agrees(truth: str | None, original: str, answer: str) -> bool:
    return answer == original


def _pair_answers(old: MeasuredAccuracy, new: MeasuredAccuracy, success: Callable[[str | None, str, str], bool]) -> tuple[int, int] | None:
    """Images on which only the old model succeeds, and only the new one.

    Both are described by where they differ from the same original; on all other images they answer alike.

    Returns:
        None where a record does not have all of those images.
    """
    lists = [{found.index: found for found in accuracy.disagreements} for accuracy in (old, new)]
    for accuracy, found in zip((old, new), lists, strict=True):
        agreement = accuracy.agreement_with_original
        if agreement is None or len(found) != round((1 - agreement) * accuracy.count):
            return None
    only_old = only_new = 0
    for index in lists[0].keys() | lists[1].keys():
        one, other = lists[0].get(index), lists[1].get(index)
        known = one or other
        if known is None or (one and other and (one.original, one.truth) != (other.original, other.truth)):
            return None
        was, is_ = (success(known.truth, known.original, entry.model if entry else known.original) for entry in (one, other))
        only_old, only_new = only_old + (was and not is_), only_new + (is_ and not was)
    return only_old, only_new


def _same_original(old: Record, new: Record) -> bool:
    """Whether the models of both records were held against the same answers, as far as the records tell."""
    one, other = old.original, new.original
    if one is None or other is None or one.accuracy is None or other.accuracy is None or one.checkpoint_sha256 is None:
        return False
    known = one.accuracy.data_sha256 is not None and one.accuracy.data_sha256 == other.accuracy.data_sha256
    return known and one.checkpoint_sha256 == other.checkpoint_sha256 and one.accuracy.confusion == other.accuracy.confusion


def _not_comparable(
    figure: str, old: float | None, new: float | None, reason: str, place: tuple[int, int] | tuple[None, None] = (None, None)
) -> Change:
    return Change(figure=figure, verdict="not comparable", old=old, new=new, reason=reason, batch_size=place[0], threads=place[1])


def _remark(old: Record, new: Record) -> list[str]:
    """Versions and settings that differ: they may be what the comparison is about, so they hinder nothing."""
    earlier, later = (record.environment.get("packages", {}) for record in (old, new))
    remarks = [
        f"{name}: {earlier.get(name, 'not installed')} and {later.get(name, 'not installed')}"
        for name in sorted(earlier.keys() | later.keys())
        if earlier.get(name) != later.get(name)
    ]
    for key in ("python", "system"):
        values = [record.environment.get(key) for record in (old, new)]
        remarks += [f"{key}: {values[0]} and {values[1]}"] if values[0] != values[1] else []
    for key in _TELLING_SETTINGS:
        values = [record.settings.get(key) for record in (old, new)]
        remarks += [f"setting {key}: {values[0]} and {values[1]}"] if (values[0] or None) != (values[1] or None) else []
    remarks += [f"the {which} record was interrupted" for which, record in (("old", old), ("new", new)) if record.interrupted]
    return remarks
