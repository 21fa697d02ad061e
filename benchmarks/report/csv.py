"""A record as CSV for spreadsheets and programs: plain numbers in the units of the record."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.record import Latency, Record, Result

RESULT_COLUMNS: Final = ("name", "precision", "runtime", "provider", "original", "size_bytes", "load_ms", "peak_memory_bytes", "error")
LATENCY_COLUMNS: Final = (
    *("batch_size", "threads", "p50_ms", "p50_low", "p50_high", "p90_ms", "p99_ms", "mean_ms", "std_ms", "samples", "images_per_s"),
    *("speedup_vs_original", "speedup_low", "speedup_high", "device_p50_ms", "doubt"),
)
ACCURACY_COLUMNS: Final = ("data", "count", "top1", "top1_low", "top1_high", "top5", "agreement_with_original")
# What spreadsheets take for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def to_csv(record: Record) -> str:
    """A line for each model, batch size and number of threads, and one for a model that could not be measured; intervals are of 95 %.

    A doubted row has no speed-up. Text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([*RESULT_COLUMNS, *LATENCY_COLUMNS, *ACCURACY_COLUMNS])
    for result in record.results:
        entries: Sequence[Latency | None] = result.latency or [None]
        for entry in entries:
            writer.writerow([_cell(value) for value in (*_of_result(result), *_of_latency(entry), *_of_accuracy(result))])
    return target.getvalue()


def _of_result(result: Result) -> list[Any]:
    return [getattr(result, name) for name in RESULT_COLUMNS]


def _of_latency(entry: Latency | None) -> list[Any]:
    if entry is None:
        return [None] * len(LATENCY_COLUMNS)
    speedup = (entry.speedup_vs_original, entry.speedup_interval95) if entry.doubt is None else (None, None)
    return [
        *(entry.batch_size, entry.threads, entry.p50_ms, *(entry.p50_interval95 or (None, None)), entry.p90_ms, entry.p99_ms),
        *(entry.mean_ms, entry.std_ms, entry.samples, entry.images_per_s, speedup[0], *(speedup[1] or (None, None))),
        *(entry.device_p50_ms, entry.doubt),
    ]


def _of_accuracy(result: Result) -> list[Any]:
    accuracy = result.accuracy
    if accuracy is None:
        return [None] * len(ACCURACY_COLUMNS)
    interval = accuracy.top1_interval95 or (None, None)
    return [accuracy.data, accuracy.count, accuracy.top1, *interval, accuracy.top5, accuracy.agreement_with_original]


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
