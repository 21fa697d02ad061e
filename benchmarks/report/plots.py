"""Plots of speed, with units on every axis."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.loads import LayerTime
from benchmarks.record import Latency, split_rounds
from benchmarks.report.drawing import BAD, INK, MUTED, Drawing, count_by_batches, draw_dots, spread_out
from benchmarks.report.lines import Line, Plot, describe_place, describe_threads, find_latency, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More calls than these are not told apart in a plot; every n-th is drawn then.
MOST_DOTS: Final = 500
MOST_LAYERS: Final = 12


def plot_rounds(name: str, lines: Sequence[Line], place: tuple[int, int]) -> Plot | None:
    """Every call over the rounds, a panel for each model, so that levels and drift show."""
    shown = [(line, entry) for line in lines if (entry := find_latency(line.result, place)) is not None and entry.samples_ms]
    if not shown:
        return None
    drawing = Drawing(name, 50 + 92 * len(shown), len(shown), share_x=True)
    thinned = beyond = 0
    for (line, entry), axes in zip(shown, drawing.axes, strict=True):
        drawn, outside = _draw_rounds(axes, line, entry)
        thinned += len(entry.samples_ms) - drawn
        beyond += outside
        axes.set_title(f"{line.label}, median {entry.p50_ms:.2f} ms{', doubted' if entry.doubt else ''}")
        axes.set_ylabel("ms")
    has_rounds = any(entry.rounds for _, entry in shown)
    drawing.axes[-1].set_xlabel("round, and the calls of each in order" if has_rounds else "share of the calls, in order")
    caption = f"Every dot is a call, {describe_place(place)}; the line is the median"
    caption += " with its 95 % interval." if has_rounds else "; this record does not tell rounds apart."
    if any(visit.doubt for _, entry in shown for visit in entry.rounds):
        caption += " Shaded rounds are not believed, and count only where a model as a whole is doubted."
    if thinned:
        caption += f" {thinned:,} calls are left out of the drawing, evenly."
    if beyond:
        caption += f" {beyond:,} calls lie above the panels and stand at the upper edge."
    return Plot(drawing.to_svg(f"times of the calls over the rounds, {describe_place(place)}"), caption)


def _draw_rounds(axes: "Axes", line: Line, entry: Latency) -> tuple[int, int]:
    """Draw one model's calls; returns how many are drawn and how many of those lie above the panel."""
    rounds = split_rounds(entry.samples_ms, entry.rounds, only_believed=False) or {0: entry.samples_ms}
    times = np.concatenate(list((entry.believed_rounds or rounds).values()))
    times = times if len(times) else np.asarray(entry.samples_ms)
    low, high = float(times.min()), float(np.percentile(times, 99.5))
    margin = 0.12 * max(high - low, 0.02 * high)
    low, high = max(0.0, low - margin), high + margin
    step = math.ceil(len(entry.samples_ms) / MOST_DOTS)
    drawn = outside = 0
    for number, calls in rounds.items():
        y = np.asarray(calls[::step])
        x = number + 0.1 + 0.8 * np.arange(len(y)) / max(len(y), 1)
        over = y > high
        is_doubted = bool(entry.rounds) and entry.rounds[number].doubt is not None
        if is_doubted:
            axes.axvspan(number, number + 1, color=BAD, alpha=0.13, linewidth=0)
        draw_dots(axes, x[~over].tolist(), y[~over].tolist(), MUTED if is_doubted else line.colour)
        axes.plot(x[over], np.full(int(over.sum()), high), "^", color=MUTED if is_doubted else BAD, markersize=3, linestyle="none")
        drawn, outside = drawn + len(y), outside + int(over.sum())
    axes.axhline(entry.p50_ms, color=INK, linewidth=1)
    if entry.p50_interval95 is not None:
        axes.axhspan(*entry.p50_interval95, color=INK, alpha=0.15, linewidth=0)
    axes.set_xlim(0, len(rounds))
    axes.set_ylim(low, high + 0.3 * margin)
    if entry.rounds:
        axes.set_xticks(range(len(rounds) + 1), ["" for _ in range(len(rounds) + 1)])
        axes.set_xticks([i + 0.5 for i in range(len(rounds))], [str(i + 1) for i in range(len(rounds))], minor=True)
        axes.tick_params(axis="x", which="minor", length=0)
    return drawn, outside


def plot_throughput(name: str, lines: Sequence[Line], threads: int) -> Plot | None:
    """Images per second over batch size."""
    sizes = sorted({entry.batch_size for line in lines for entry in line.result.latency if entry.threads == threads})
    if len(sizes) < 2:
        return None
    drawing = Drawing(name, 240)
    axes = drawing.axes[0]
    for line in lines:
        entries = [entry for size in sizes if (entry := find_latency(line.result, (size, threads))) is not None]
        _draw_sweep(axes, line, [(entry.batch_size, entry.images_per_s, entry) for entry in entries], rate=True)
    count_by_batches(axes, sizes)
    spread_out(axes, "y")
    axes.set_xlabel(f"images per call, {describe_threads(threads)}")
    axes.set_ylabel("images/s")
    return Plot(
        drawing.to_svg("throughput over batch size"), f"Throughput over batch size, {describe_threads(threads)}. Hollow marks are doubted."
    )


def plot_threads(name: str, lines: Sequence[Line], batch_size: int) -> Plot | None:
    """Median latency over the number of threads."""
    counts = sorted({entry.threads for line in lines for entry in line.result.latency if entry.batch_size == batch_size})
    if len(counts) < 2:
        return None
    drawing = Drawing(name, 240)
    axes = drawing.axes[0]
    for line in lines:
        entries = [entry for count in counts if (entry := find_latency(line.result, (batch_size, count))) is not None]
        _draw_sweep(axes, line, [(entry.threads, entry.p50_ms, entry) for entry in entries], rate=False)
    count_by_batches(axes, counts)
    spread_out(axes, "y")
    axes.set_xlabel("threads")
    axes.set_ylabel(f"median latency, batch {batch_size} (ms)")
    return Plot(drawing.to_svg("latency over threads"), f"Latency over threads, batch {batch_size}. Hollow marks are doubted.")


def _draw_sweep(axes: "Axes", line: Line, points: Sequence[tuple[int, float, Latency]], *, rate: bool) -> None:
    if not points:
        return
    x, y = [point[0] for point in points], [point[1] for point in points]
    axes.plot(x, y, color=line.colour)
    for place, value, entry in points:
        low, high = entry.p50_interval95 or (entry.p50_ms, entry.p50_ms)
        ends = (1000 * entry.batch_size / high, 1000 * entry.batch_size / low) if rate else (low, high)
        error = [[max(0, value - ends[0])], [max(0, ends[1] - value)]]
        face = "none" if entry.doubt else line.colour
        axes.errorbar(place, value, yerr=error, fmt=line.marker, color=line.colour, markerfacecolor=face, elinewidth=1)


def plot_layers(name: str, line: Line) -> Plot | None:
    """Time of the slowest layers, the rest in one bar."""
    layers = line.result.layers
    if not layers:
        return None
    shown, rest = list(layers[:MOST_LAYERS]), layers[MOST_LAYERS:]
    if rest:
        time, share = sum(layer.p50_ms for layer in rest), sum(layer.share for layer in rest)
        shown.append(LayerTime(layer=f"{len(rest)} others", operators=[], p50_ms=time, share=share))
    drawing = Drawing(name, 60 + 17 * len(shown))
    axes = drawing.axes[0]
    axes.barh(range(len(shown)), [layer.p50_ms for layer in shown], color=line.colour, height=0.7)
    for i, layer in enumerate(shown):
        axes.text(layer.p50_ms, i, f" {layer.share:.0%}", va="center", fontsize=8.5)
    axes.set_yticks(range(len(shown)), [shorten(layer.layer) for layer in shown])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    axes.set_xlabel("median time, batch 1 (ms)")
    axes.set_title(line.label)
    return Plot(drawing.to_svg(f"time of the layers of {line.label}"), f"{line.label}: where the time of a call goes.")


def plot_sustained(name: str, lines: Sequence[Line]) -> Plot | None:
    """Median of every minute, and below it temperature and clock where the system tells them."""
    shown = [line for line in lines if line.result.sustained]
    if not shown:
        return None
    below = [
        (attribute, unit)
        for attribute, unit in (("temperature_c", "hottest sensor (°C)"), ("frequency_mhz", "mean clock (MHz)"))
        if any(getattr(minute, attribute) is not None for line in shown for minute in line.result.sustained or [])
    ]
    drawing = Drawing(name, 200 + 110 * len(below), 1 + len(below), share_x=True)
    for line in shown:
        minutes = line.result.sustained or []
        count = range(1, len(minutes) + 1)
        drawing.axes[0].plot(count, [minute.p50_ms for minute in minutes], color=line.colour)
        for number, minute in zip(count, minutes, strict=True):
            face = "none" if minute.doubt else line.colour
            drawing.axes[0].plot(number, minute.p50_ms, marker=line.marker, color=line.colour, markerfacecolor=face)
        for axes, (attribute, unit) in zip(drawing.axes[1:], below, strict=True):
            values = [getattr(minute, attribute) for minute in minutes]
            axes.plot(count, [math.nan if value is None else value for value in values], color=line.colour)
            axes.set_ylabel(unit)
    drawing.axes[0].set_ylabel("median (ms)")
    drawing.axes[0].set_ylim(bottom=0)
    drawing.axes[-1].set_xlabel("minute")
    return Plot(drawing.to_svg("latency minute by minute"), "Running without a pause, minute by minute. Hollow marks are doubted.")


def plot_server(name: str, lines: Sequence[Line]) -> Plot | None:
    """99th percentile over the rate of random arrivals, with the bound."""
    shown = [(line, server) for line in lines if (server := line.result.server) is not None and server.trials]
    if not shown:
        return None
    drawing = Drawing(name, 240)
    axes = drawing.axes[0]
    for line, server in shown:
        trials = sorted(server.trials, key=lambda trial: trial.rate_per_s)
        axes.plot([trial.rate_per_s for trial in trials], [trial.p99_ms for trial in trials], color=line.colour, linewidth=1)
        for trial in trials:
            face = line.colour if trial.held else "none"
            axes.plot(trial.rate_per_s, trial.p99_ms, marker=line.marker, color=line.colour, markerfacecolor=face)
        axes.axhline(server.bound_ms, color=line.colour, linestyle="--", linewidth=1)
    spread_out(axes, "x")
    spread_out(axes, "y")
    axes.set_xlabel("images that arrive in a second, at random (1/s)")
    axes.set_ylabel("99th percentile (ms)")
    caption = "From arrival to answer. Filled marks hold the bound (dashed), hollow ones do not."
    return Plot(drawing.to_svg("99th percentile over the rate of arrivals"), caption)
