"""What a terminal and Markdown say of loads beyond single calls, and of layers: one small table for each kind that was measured."""

from collections.abc import Iterator
from typing import Final

from benchmarks.record import Record, Result
from benchmarks.report.rows import DOUBT, Layout

LAYERS_SHOWN: Final = 8


def lay_out_loads(record: Record) -> Iterator[Layout]:
    """Tables of what a record has of each kind; their first note is their title."""
    yield from _of_offline(record)
    yield from _of_server(record)
    yield from _of_sustained(record)
    for result in record.results:
        yield from _of_layers(result)


def _of_offline(record: Record) -> Iterator[Layout]:
    found = [(result, result.offline) for result in record.results if result.offline is not None]
    if found:
        rows: list[tuple[str, ...]] = []
        for result, offline in found:
            low, high = offline.interval95 or (None, None)
            spread = f"{low:,.0f} to {high:,.0f}" if low is not None and high is not None else "-"
            rows.append((result.name, str(offline.batch_size), f"{offline.images_per_s:,.0f}{DOUBT if offline.doubt else ''}", spread))
        title = "offline: all images at hand, on all cores"
        doubts = [f"{DOUBT} {result.name}: {offline.doubt}" for result, offline in found if offline.doubt]
        yield Layout(headings=("model", "batch", "img/s", "95 %"), rows=rows, notes=[title, *doubts])


def _of_server(record: Record) -> Iterator[Layout]:
    found = [(result, result.server) for result in record.results if result.server is not None]
    if found:
        rows: list[tuple[str, ...]] = []
        for result, server in found:
            held = [trial for trial in server.trials if trial.held]
            p99 = f"{max(held, key=lambda trial: trial.rate_per_s).p99_ms:.2f}" if held else "-"
            rows.append((result.name, f"{server.images_per_s:,.0f}{DOUBT if server.doubt else ''}", p99, str(len(server.trials))))
        title = f"server: most random arrivals in a second with a 99th percentile of {found[0][1].bound_ms:g} ms at most"
        doubts = [f"{DOUBT} {result.name}: {server.doubt}" for result, server in found if server.doubt]
        yield Layout(headings=("model", "img/s", "p99 ms", "trials"), rows=rows, notes=[title, *doubts])


def _of_sustained(record: Record) -> Iterator[Layout]:
    found = [(result, result.sustained) for result in record.results if result.sustained]
    if found:
        rows: list[tuple[str, ...]] = []
        for result, minutes in found:
            first, last = minutes[0], minutes[-1]
            heat = f"{last.temperature_c:.0f}" if last.temperature_c is not None else "-"
            busy = sum(minute.doubt is not None for minute in minutes)
            change = f"{last.p50_ms / first.p50_ms - 1:+.1%}"
            rows.append((result.name, str(len(minutes)), f"{first.p50_ms:.2f}", f"{last.p50_ms:.2f}", change, heat, str(busy)))
        title = (
            "sustained: medians of the first and the last minute without a pause; degrees Celsius at the end; minutes with others at work"
        )
        headings = ("model", "minutes", "first ms", "last ms", "change", "deg C", "busy")
        yield Layout(headings=headings, rows=rows, notes=[title])


def _of_layers(result: Result) -> Iterator[Layout]:
    if result.layers:
        rows: list[tuple[str, ...]] = [
            (layer.layer, ", ".join(layer.operators), f"{layer.p50_ms:.3f}", f"{layer.share:.1%}") for layer in result.layers[:LAYERS_SHOWN]
        ]
        shown = sum(layer.share for layer in result.layers[:LAYERS_SHOWN])
        title = f"layers of {result.name}: the slowest {len(rows)} of {len(result.layers)}, {shown:.0%} of the time of one image"
        yield Layout(headings=("layer", "operators", "p50 ms", "share"), rows=rows, notes=[title])
