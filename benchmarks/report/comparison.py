"""A comparison as a table for people, and as Markdown."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from benchmarks.changes import FIGURES, Change
from benchmarks.compare import Comparison, Pair
from benchmarks.gates import show_size
from benchmarks.intervals import geometric_mean
from benchmarks.report.markdown import escape, write_table

HEADINGS: Final = ("figure", "old", "new", "change", "99 % interval", "verdict")
_NAMES: Final[Mapping[str, str]] = {
    "images_per_s": "images/s",
    "load": "load time",
    "memory": "peak memory",
    "size": "file size",
    "top1": "top-1",
}
_FORMS: Final[Mapping[str, Callable[[float], str]]] = {
    "ms": lambda value: f"{value:.2f} ms" if value < 1000 else f"{value / 1000:,.2f} s",
    "images/s": lambda value: f"{value:,.0f}",
    "bytes": lambda value: f"{value / 1e6:,.1f} MB",
    "": lambda value: f"{value:.2%}",
}


def build_comparison_view(comparison: Comparison, *, everything: bool = False) -> Group:
    """A row for each figure that has changed, below its model, and what there is to say of the rest; it fits a terminal of 80 columns.

    Args:
        comparison: What to show.
        everything: Show what is the same too.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, heading in enumerate(HEADINGS):
        is_number = 1 <= i <= 4
        width = len("p50, batch 32, 2 threads") if heading == "figure" else None
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold", min_width=width)
    for pair in comparison.pairs:
        rows = list(_rows(pair, everything=everything))
        if rows:
            table.add_row(_title(pair), style="bold")
        for row in rows:
            table.add_row(*row)
    return Group(*([table] if table.row_count else []), *summarize(comparison, everything=everything))


def to_markdown_comparison(comparison: Comparison, *, everything: bool = False) -> str:
    """The same as GitHub's Markdown, the model in a column of its own."""
    rows = [(_title(pair), *row) for pair in comparison.pairs for row in _rows(pair, everything=everything)]
    table = write_table(("model", *HEADINGS), rows, numbers=range(2, 6))
    return table + "".join(f"\n- {escape(line)}" for line in summarize(comparison, everything=everything)) + "\n"


def summarize(comparison: Comparison, *, everything: bool) -> Iterator[str]:
    """What stands below the figures: their mean, what is hidden, what could not be compared and why, and what else differs."""
    ratios = comparison.p50_ratios
    if ratios:
        mean = geometric_mean(ratios)
        yield f"p50, geometric mean of {len(ratios)}: {mean:.3f}x the old time ({100 * (mean - 1):+.1f} %)"
    if comparison.same:
        how = "" if everything else "; hidden, --all shows them"
        yield f"{comparison.same} figure(s) the same: no change that is both significant and at least {100 * comparison.threshold:g} %{how}"
    for pair in comparison.pairs:
        if pair.reason is not None:
            yield f"not comparable: {_title(pair)}: {pair.reason}"
    for (verdict, reason), places in _by_reason(comparison).items():
        yield f"{verdict}: {len(places)} figure(s) of {', '.join(dict.fromkeys(map(_title, places)))}: {reason}"
    bases = dict.fromkeys(change.basis for _, change in comparison.changes if change.basis and change.verdict != "same")
    yield from (f"interval: {basis}" for basis in bases)
    for which, names in (("old", comparison.only_old), ("new", comparison.only_new)):
        if names:
            yield f"only in the {which} record: {', '.join(names)}"
    yield from (f"differs: {remark}" for remark in comparison.remarks)


def _by_reason(comparison: Comparison) -> dict[tuple[str, str], list[Pair]]:
    """The models of the figures of which nothing can be said, by why."""
    places: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair, change in comparison.changes:
        if change.reason is not None:
            places[change.verdict, change.reason].append(pair)
    return places


def _rows(pair: Pair, *, everything: bool) -> Iterator[tuple[str, ...]]:
    for change in pair.changes:
        if change.verdict == "same" and not everything:
            continue
        kind = FIGURES[change.figure]
        interval = change.interval99
        low, high = (show_size(change, end).removesuffix(" points").removesuffix(" %") for end in interval) if interval else ("", "")
        yield (
            _name(change),
            _FORMS[kind.unit](change.old) if change.old is not None else "-",
            _FORMS[kind.unit](change.new) if change.new is not None else "-",
            show_size(change, change.change).replace(" points", " pt") if change.change is not None else "-",
            f"{low} to {high}" if interval else "-",
            change.verdict,
        )


def _name(change: Change) -> str:
    name = _NAMES.get(change.figure, change.figure)
    return f"{name}, {change.conditions}" if change.conditions else name


def _title(pair: Pair) -> str:
    return pair.name if pair.name == pair.old_name else f"{pair.old_name} -> {pair.name}"
