"""Plots of accuracy, with units on every axis."""

from collections.abc import Mapping, Sequence

from benchmarks.intervals import wilson_interval
from benchmarks.report.drawing import Drawing, spread_out
from benchmarks.report.lines import Line, Plot, describe_place, find_latency, shorten


def plot_tradeoff(name: str, lines: Sequence[Line], place: tuple[int, int]) -> Plot | None:
    """Accuracy over latency, with the 95 % intervals of both; agreement with the original where there are no labels."""
    labelled = any(line.result.accuracy is not None and line.result.accuracy.top1 is not None for line in lines)
    drawing = Drawing(name, 250)
    axes = drawing.axes[0]
    drawn = 0
    for line in lines:
        entry, accuracy = find_latency(line.result, place), line.result.accuracy
        share = None if accuracy is None else accuracy.top1 if labelled else accuracy.agreement_with_original
        if entry is None or accuracy is None or share is None:
            continue
        drawn += 1
        low, high = wilson_interval(share, accuracy.count)
        fast, slow = entry.p50_interval95 or (entry.p50_ms, entry.p50_ms)
        axes.errorbar(
            entry.p50_ms,
            100 * share,
            xerr=[[max(0, entry.p50_ms - fast)], [max(0, slow - entry.p50_ms)]],
            yerr=[[max(0, 100 * (share - low))], [max(0, 100 * (high - share))]],
            fmt=line.marker,
            color=line.colour,
            markerfacecolor="none" if entry.doubt else line.colour,
            markersize=8,
            elinewidth=1,
        )
    if drawn < 2:
        return None
    spread_out(axes, "x")
    axes.margins(0.12, 0.1)
    axes.set_xlabel(f"median latency, {describe_place(place)} (ms)")
    axes.set_ylabel("top-1 (%)" if labelled else "same class as the original (%)")
    caption = (
        f"Better is further left and further up. Bars are 95 % intervals; hollow marks are doubted. {describe_place(place).capitalize()}."
    )
    return Plot(drawing.to_svg(f"accuracy over latency of {drawn} models"), caption)


def plot_classes(name: str, lines: Sequence[Line]) -> Plot | None:
    """Accuracy of each class, a mark for each model."""
    found = [(line, line.result.accuracy.per_class) for line in lines if line.result.accuracy and line.result.accuracy.per_class]
    return _plot_kinds(name, found, "images of the class that are right (%)", "Accuracy of each class.")


def plot_corruptions(name: str, lines: Sequence[Line]) -> Plot | None:
    """Accuracy on corrupted images, a mark for each model."""
    found = [(line, line.result.accuracy.corrupted) for line in lines if line.result.accuracy and line.result.accuracy.corrupted]
    return _plot_kinds(name, found, "corrupted images that are right (%)", "What corrupted images cost, by kind of corruption.")


def _plot_kinds(
    name: str, shares: Sequence[tuple[Line, Mapping[str, float | None] | Mapping[str, float]]], label: str, caption: str
) -> Plot | None:
    """Shares by kind, a row for each kind and a mark for each model."""
    kinds = list(dict.fromkeys(kind for _, found in shares for kind in found))
    if not kinds:
        return None
    drawing = Drawing(name, 70 + 22 * len(kinds))
    axes = drawing.axes[0]
    reach = 0.5 / len(shares)
    for i, (line, found) in enumerate(shares):
        offset = (i - (len(shares) - 1) / 2) * reach
        marks = [(100 * value, kinds.index(kind) + offset) for kind, value in found.items() if value is not None]
        axes.plot([x for x, _ in marks], [y for _, y in marks], line.marker, color=line.colour, linestyle="none")
    axes.set_yticks(range(len(kinds)), [shorten(kind) for kind in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlabel(label)
    return Plot(drawing.to_svg(caption), caption)
