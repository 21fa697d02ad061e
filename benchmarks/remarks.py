"""What a reader of a record should know before believing its figures, each with what helps."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchmarks.intervals import LEAST_ROUNDS, find_levels
from benchmarks.record import Latency, Record, Result
from edgeresnet.target import PROVIDERS

# A 90th percentile this far above the median, or a deviation of this share of the mean (pyperf's), says that something else used the
# machine; an interval wider than 1 % to either side, that there are too few rounds for it.
UNSTABLE_RATIO: Final = 1.5
DEVIATION: Final = 0.1
PRECISE: Final = 0.01
CPU_PROVIDER, CUDA_PROVIDER = PROVIDERS["cpu"], PROVIDERS["cuda"]
# Processors lower their clock by less than this from one moment to the next without being too hot.
SLOWED: Final = 0.9


def find_warnings(record: Record) -> list[str]:
    """Warnings, those that make figures worthless first. One that holds of several rows is one line."""
    checks = (_find_doubts, _find_left_out, _find_machine, _find_levels, _find_unstable, _find_imprecise, _find_slow_int8, _find_formats)
    return [warning for check in checks for warning in check(record)]


def _find_doubts(record: Record) -> Iterator[str]:
    for reason, rows in _group(record, lambda latency: latency.doubt).items():
        yield (
            f"{rows}: not to be believed, so no speed-up is given: {reason}; fix: stop what else runs here and measure again, "
            "or leave it a core (--threads)"
        )


def _find_left_out(record: Record) -> Iterator[str]:
    counts = [
        (sum(visit.doubt is not None for visit in latency.rounds), len(latency.rounds))
        for result in record.results
        for latency in result.latency
        if latency.doubt is None
    ]
    left_out, of = sum(count for count, _ in counts), sum(count for _, count in counts)
    if left_out:
        yield f"{left_out} of {of} rounds are left out, since something else had the cores"


def _find_machine(record: Record) -> Iterator[str]:
    before, after = record.environment.get("before") or {}, record.environment.get("after") or {}
    if (after.get("throttled") or 0) > (before.get("throttled") or 0):
        times = after["throttled"] - before["throttled"]
        yield f"the processor was slowed down for its temperature {times} times; fix: let it cool, or cool it"
    governor = before.get("governor")
    if governor not in (None, "performance"):
        yield f"the clock is set by the governor {governor!r}; fix: cpupower frequency-set --governor performance"
    first, last = before.get("frequency_mhz"), after.get("frequency_mhz")
    if first and last and last < SLOWED * first:
        yield f"the cores' clock fell from {first:,.0f} to {last:,.0f} MHz meanwhile; fix: let the processor cool, and measure again"


def _find_levels(record: Record) -> Iterator[str]:
    for name, latency in _latencies(record):
        levels = find_levels([value for times in latency.believed_rounds.values() for value in times])
        if levels is not None:
            yield (
                f"{name}: calls take {levels[0]:.2f} or {levels[1]:.2f} ms, two levels; the median is one of them or between: "
                "look at the times (--html); fix: a fixed clock, --threads below the number of cores, a machine of your own"
            )


def _find_unstable(record: Record) -> Iterator[str]:
    for name, latency in _latencies(record):
        if latency.p90_ms is not None and latency.p90_ms > UNSTABLE_RATIO * latency.p50_ms:
            yield f"{name}: unstable, p90 is {latency.p90_ms / latency.p50_ms:.1f}x the median; machine busy?"
        elif latency.std_ms > DEVIATION * latency.mean_ms and latency.doubt is None:
            slow = max(latency.samples_ms) / latency.p50_ms
            yield f"{name}: times deviate by {latency.std_ms / latency.mean_ms:.0%} of their mean, the slowest is {slow:.1f}x the median"


def _find_imprecise(record: Record) -> Iterator[str]:
    wide = []
    for name, latency in _latencies(record):
        if latency.doubt is None and len(latency.rounds) >= LEAST_ROUNDS and latency.p50_interval95 is not None:
            low, high = latency.p50_interval95
            error = (high - low) / 2 / latency.p50_ms
            if error > PRECISE:
                wide.append((error, name))
    if wide:
        worst, name = max(wide)
        times = f", about {math.ceil((worst / PRECISE) ** 2 - 1e-6)} times as long for the worst" if worst < 0.1 else ""
        yield (
            f"{len(wide)} median(s) are known to no better than 1 %, {name} to {worst:.1%}; fix: a quieter machine, "
            f"or measure longer (--min-time{times})"
        )


def _find_slow_int8(record: Record) -> Iterator[str]:
    fp32 = {
        (latency.batch_size, latency.threads): latency.p50_ms
        for result in record.results
        if result.precision == "fp32" and result.runtime == "onnxruntime"
        for latency in result.latency
    }
    for result in record.results:
        if result.precision in ("int8", "int8-static"):
            for latency in result.latency:
                least = fp32.get((latency.batch_size, latency.threads), float("inf"))
                if latency.p50_ms > least:
                    yield f"{_name(record, result, latency)}: slower than FP32 here, {latency.p50_ms:.2f} against {least:.2f} ms"


def _find_formats(record: Record) -> Iterator[str]:
    for result in record.results:
        if result.precision == "fp16" and result.provider == CPU_PROVIDER:
            yield f"{result.name}: FP16 is made for GPUs; processors without FP16 arithmetic convert to FP32 and back"
    if CUDA_PROVIDER in {result.provider for result in record.results} and "fp16" not in {result.precision for result in record.results}:
        yield "FP16 is CUDA's fast format and is not among these models: edgeresnet export --precision fp16"
    for result in record.results:
        if result.arithmetic is not None:
            yield f"{result.name}: {result.arithmetic}"


def _latencies(record: Record) -> Iterator[tuple[str, Latency]]:
    for result in record.results:
        for latency in result.latency:
            yield _name(record, result, latency), latency


def _name(record: Record, result: Result, latency: Latency) -> str:
    """A row in words; the threads where there are several numbers of them."""
    several = len({entry.threads for row in record.results for entry in row.latency}) > 1
    return f"{result.name}, batch {latency.batch_size}" + (f", {latency.threads} thread(s)" if several else "")


def _group(record: Record, of: Callable[[Latency], str | None]) -> dict[str, str]:
    """The rows that something is said of, by what is said."""
    found: dict[str, list[str]] = {}
    for name, latency in _latencies(record):
        said: Any = of(latency)
        if said is not None:
            found.setdefault(said, []).append(name)
    return {said: "; ".join(names) for said, names in found.items()}
