"""What a table of a record says, whatever form it has: headings, cells and the notes below."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.record import Latency, Record, Result

DOUBT: Final = "?"
_TEXTS: Final = ("model", "form")
_NAMES: Final = (*_TEXTS, "layer", "operators")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table before it has a form.

    Attributes:
        headings: Of the columns.
        rows: As many cells each.
        notes: Lines that stand below.
    """

    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]

    @property
    def numbers(self) -> list[bool]:
        """Whether a column has numbers, which end below each other."""
        return [heading not in _NAMES for heading in self.headings]


def lay_out(record: Record) -> Layout:
    """One row for each model, batch size and number of threads, and one for a model that could not be measured."""
    entries = [entry for result in record.results for entry in result.latency]
    threads = len({entry.threads for entry in entries}) > 1
    device = any(entry.device_p50_ms is not None for entry in entries)
    headings = (
        *(*_TEXTS, "MB", "batch"),
        *(("thr",) if threads else ()),
        *("p50 ms", "p90 ms"),
        *(("device",) if device else ()),
        *("img/s", "speed-up", "top-1", "agrees"),
    )
    rows: list[tuple[str, ...]] = []
    for result in record.results:
        for i, entry in enumerate(result.latency):
            accuracy = result.accuracy if i == 0 else None
            rows.append(
                (
                    *(_identify(result) if i == 0 else ("", "", "")),
                    str(entry.batch_size),
                    *((str(entry.threads),) if threads else ()),
                    f"{entry.p50_ms:.2f}{DOUBT if entry.doubt else ''}",
                    _number(entry.p90_ms),
                    *((_number(entry.device_p50_ms),) if device else ()),
                    f"{entry.images_per_s:,.0f}",
                    _speedup(entry),
                    _share(accuracy.top1 if accuracy else None),
                    _share(accuracy.agreement_with_original if accuracy else None),
                )
            )
        if not result.latency:
            rows.append((*_identify(result), "failed" if result.error else "-", *("-" for _ in headings[4:])))
    return Layout(headings=headings, rows=rows, notes=[*_describe_conditions(record), *_describe_rows(record)])


def _describe_rows(record: Record) -> Iterator[str]:
    if any(entry.speedup_interval95 and not entry.doubt for result in record.results for entry in result.latency):
        yield "speed-up: ratio of medians, and how far its 95 % interval over rounds reaches"
    for result in record.results:
        if result.error is not None:
            yield f"failed: {result.name}: {result.error}"
    doubts: dict[str, list[str]] = {}
    for result in record.results:
        for entry in result.latency:
            if entry.doubt is not None:
                doubts.setdefault(entry.doubt, []).append(f"{result.name} at {entry.batch_size}")
    yield from (f"{DOUBT} not to be believed: {', '.join(dict.fromkeys(places))}: {doubt}" for doubt, places in doubts.items())
    if record.interrupted:
        yield "interrupted: what stands here was measured before"


def _describe_conditions(record: Record) -> Iterator[str]:
    environment, settings = record.environment, record.settings
    known = environment["packages"]
    packages = [f"{name} {known[name]}" for name in ("torch", "onnxruntime", "onnxruntime-gpu") if name in known]
    yield (
        f"{environment['cpu']} ({', '.join(environment['instruction_sets']) or 'instruction sets unknown'}), "
        f"{settings['threads']} thread(s) of {environment['cores_allowed']} cores, {', '.join(packages)}"
    )
    if any(entry.device_p50_ms is not None for result in record.results for entry in result.latency):
        yield "device: median ms with input and output already on the device; p50 and p90 include the copies"
    accuracy = next((result.accuracy for result in record.results if result.accuracy is not None), None)
    if accuracy is not None:
        yield f"answers on {accuracy.count:,} images: {accuracy.data}"


def _identify(result: Result) -> tuple[str, str, str]:
    """Name, with the provider where it is not the CPU, precision and size."""
    name = "PyTorch original" if result.runtime == "pytorch" else f"{result.name} (original)" if result.original else result.name
    provider = result.provider.removesuffix("ExecutionProvider")
    elsewhere = result.runtime != "pytorch" and provider not in ("CPU", "")
    return f"{name} on {provider}" if elsewhere else name, result.precision, f"{result.size_bytes / 1e6:.1f}"


def _speedup(entry: Latency) -> str:
    """The ratio, and how far its interval reaches to the side on which it reaches farther."""
    ratio, interval = entry.speedup_vs_original, entry.speedup_interval95
    if not ratio or entry.doubt is not None:
        return "-"
    if interval is None or interval[0] == interval[1]:
        return f"{ratio:.2f}x"
    reach = 100 * max(interval[1] / ratio - 1, 1 - interval[0] / ratio)
    return f"{ratio:.2f}x \N{PLUS-MINUS SIGN}{reach:.{0 if reach >= 1 else 1}f}%"


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else "-"


def _number(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else "-"
