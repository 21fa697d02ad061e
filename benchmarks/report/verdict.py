"""What a benchmark says, in a sentence."""

from dataclasses import dataclass
from typing import Final

from benchmarks.record import Latency, MeasuredAccuracy, Record, Result
from benchmarks.report.lines import describe_place, find_latency

# A model keeps the accuracy if it loses no more than this of top-1; without labels, if it gives as good as all of the original's answers.
MOST_LOST: Final = 0.005
LEAST_AGREEMENT: Final = 0.99


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The sentence, and what it is about.

    Attributes:
        text: What comes out of the benchmark.
        details: Sentences that hold it up or limit it.
        best: The model that is recommended; None where there is none.
        place: Batch size and threads that it is about; None where nothing was measured.
    """

    text: str
    details: list[str]
    best: Result | None = None
    place: tuple[int, int] | None = None


def reach_verdict(record: Record) -> Verdict:
    """The fastest model whose accuracy holds, and by how much; or why nobody can tell."""
    place = choose_place(record)
    if place is None:
        errors = [f"{result.name}: {result.error}" for result in record.results if result.error]
        return Verdict(text="Nothing was measured.", details=errors)
    original = record.original
    measured = [(result, entry) for result in record.results if (entry := find_latency(result, place)) is not None]
    models = [(result, entry) for result, entry in measured if result is not original]
    believed = sorted(((result, entry) for result, entry in models if entry.doubt is None), key=lambda found: found[1].p50_ms)
    if not believed:
        doubts = dict.fromkeys(f"{result.name}: {entry.doubt}" for result, entry in models)
        text = f"No model can be recommended: no figure at {describe_place(place)} can be believed."
        return Verdict(text=text, details=[*doubts, "Measure again on a quiet machine."], place=place)
    keeping = [(result, entry) for result, entry in believed if keeps_accuracy(result.accuracy, original) is not False]
    if not keeping:
        text = "No model keeps the accuracy of the original."
        return Verdict(text=text, details=[_describe_loss(result, original) for result, _ in believed], place=place)
    best, entry = keeping[0]
    faster = [found for found in believed if found[1].p50_ms < entry.p50_ms]
    bound = _describe_bound(best, original)
    details = [*([bound] if bound else []), _describe_answers(best, original)]
    details += [f"{result.name} is faster ({other.p50_ms:.2f} ms), but {_describe_loss(result, original)}" for result, other in faster]
    doubted = [result.name for result, other in measured if other.doubt is not None]
    if doubted:
        details.append(f"Not to be believed at {describe_place(place)}, and left out: {', '.join(doubted)}.")
    return Verdict(text=_describe_speed(best, entry, original, place), details=details, best=best, place=place)


def choose_place(record: Record) -> tuple[int, int] | None:
    """What most readers ask for: the smallest batch, with the threads that the benchmark was set to."""
    places = sorted({(entry.batch_size, entry.threads) for result in record.results for entry in result.latency})
    smallest = [place for place in places if place[0] == places[0][0]]
    usual = [place for place in smallest if place[1] == record.settings.get("threads")]
    return next(iter(usual or smallest[-1:]), None)


def keeps_accuracy(accuracy: MeasuredAccuracy | None, original: Result | None) -> bool | None:
    """Whether a model is as good as the original for most uses; None where nobody knows."""
    reference = original.accuracy if original is not None else None
    if accuracy is None or reference is None:
        return None
    if accuracy.top1 is not None and reference.top1 is not None:
        return accuracy.top1 >= reference.top1 - MOST_LOST
    return None if accuracy.agreement_with_original is None else accuracy.agreement_with_original >= LEAST_AGREEMENT


def describe_paired(accuracy: MeasuredAccuracy) -> str | None:
    """McNemar's test in words; None where it was not made."""
    paired = accuracy.paired
    if paired is None:
        return None
    if paired.only_original_right == paired.only_model_right == 0:
        return "It and the original are right on the same images."
    split = f"the original alone is right on {paired.only_original_right:,} images, this model alone on {paired.only_model_right:,}"
    p = "p < 0.0001" if paired.p_value < 0.0001 else f"p = {paired.p_value:.2g}"
    if paired.p_value < 0.05:
        better = "worse" if paired.only_original_right > paired.only_model_right else "better"
        return f"It is {better} than the original by more than chance: {split} (McNemar's test, {p})."
    return f"Its difference from the original may be chance: {split} (McNemar's test, {p})."


def _describe_speed(best: Result, entry: Latency, original: Result | None, place: tuple[int, int]) -> str:
    where = f"at {describe_place(place)}"
    alone = f"{best.name} is the fastest model, {entry.p50_ms:.2f} ms {where}"
    beside = find_latency(original, place) if original is not None else None
    if original is None or beside is None:
        return f"{alone}. There is no original to compare it with."
    name = "the PyTorch original" if original.runtime == "pytorch" else original.name
    ratio, interval = entry.speedup_vs_original, entry.speedup_interval95
    if ratio is None:
        return f"{alone}. By how much, nobody can tell: {beside.doubt or 'no ratio was taken'}."
    within = f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}" if interval is not None else "no interval: too few rounds"
    speed = f"{ratio:.2f}x as fast ({within}), {entry.p50_ms:.2f} ms against {beside.p50_ms:.2f} ms {where}"
    if ratio <= 1 or (interval is not None and interval[0] <= 1):
        return f"No model is faster than {name} by more than chance: the fastest, {best.name}, is {speed}."
    return f"{best.name} is faster than {name}: {speed}."


def _describe_bound(result: Result, original: Result | None) -> str | None:
    """Why it is the one that is recommended, as far as its answers could be held against the original's."""
    if keeps_accuracy(result.accuracy, original) is None or result.accuracy is None:
        return None
    if result.accuracy.top1 is not None:
        return f"It is the fastest model that loses no more than {100 * MOST_LOST:g} points of top-1."
    return f"It is the fastest model that gives at least {LEAST_AGREEMENT:.0%} of the original's answers."


def _describe_answers(result: Result, original: Result | None) -> str:
    accuracy = result.accuracy
    reference = original.accuracy if original is not None else None
    if accuracy is None:
        return "Its accuracy was not measured."
    if accuracy.top1 is not None:
        against = f" against {reference.top1:.2%} of the original" if reference is not None and reference.top1 is not None else ""
        words = describe_paired(accuracy)
        return f"It is right on {accuracy.top1:.2%} of {accuracy.count:,} images{against}. {words or ''}".strip()
    if accuracy.agreement_with_original is None:
        return "There is no original to compare its answers with."
    return f"It gives the original's class on {accuracy.agreement_with_original:.2%} of {accuracy.count:,} images without labels."


def _describe_loss(result: Result, original: Result | None) -> str:
    accuracy, reference = result.accuracy, original.accuracy if original is not None else None
    if accuracy is not None and reference is not None and accuracy.top1 is not None and reference.top1 is not None:
        return f"{result.name} is right on {accuracy.top1:.2%} of the images, the original on {reference.top1:.2%}."
    share = accuracy.agreement_with_original if accuracy is not None else None
    return (
        f"{result.name} gives the original's class on {share:.2%} of the images only."
        if share is not None
        else f"{result.name} is unknown."
    )
