"""Why two figures cannot be compared, in words; None where they can."""

import math

from benchmarks.loads import Offline
from benchmarks.record import Latency, MeasuredAccuracy, Record, Result


def other_machine(old: Record, new: Record) -> str | None:
    """Two records of different machines."""
    for key in ("cpu", "instruction_sets", "gpus"):
        one, other = (record.environment.get(key) or None for record in (old, new))
        if one != other:
            shown = (", ".join(value) if isinstance(value, list) else str(value) for value in (one, other))
            return f"other machine ({' and '.join(shown)})"
    return None


def other_way(before: Result, after: Result) -> str | None:
    """Two models that ran in different ways."""
    if before.provider != after.provider:
        return f"other provider ({before.provider} and {after.provider})"
    if before.arithmetic != after.arithmetic:
        return f"other arithmetic ({before.arithmetic or 'FP32'} and {after.arithmetic or 'FP32'})"
    return None


def other_data(old: MeasuredAccuracy, new: MeasuredAccuracy) -> str | None:
    """Answers to different images."""
    if (old.data, old.count) != (new.data, new.count):
        return f"other data ({old.count:,} images, {old.data}, and {new.count:,} images, {new.data})"
    sums = old.data_sha256, new.data_sha256
    if None not in sums and sums[0] != sums[1]:
        return f"other data (SHA-256 {str(sums[0])[:12]} and {str(sums[1])[:12]})"
    return None


def doubted(old: Latency | Offline, new: Latency | Offline) -> str | None:
    """Why one of two measurements is not to be believed."""
    return next((f"doubted in the {which} record ({one.doubt})" for which, one in (("old", old), ("new", new)) if one.doubt), None)


def senseless(*values: float) -> str | None:
    """Why times and rates that somebody has written into a record by hand have no ratio."""
    return None if all(0 < value < math.inf for value in values) else "a figure in a record is not a positive number"
