"""Latency: one live model at a time, in interleaved rounds."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import SAMPLES_FOR_P90, SAMPLES_FOR_P99
from benchmarks.record import Latency
from benchmarks.subjects import Execution, Subject
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.timing import time_calls

# A live idle session takes time from the one that is measured (its threads spin: 3.5 ms alone, 24 ms beside four of them),
# so models are opened one after the other. The machine's speed drifts, so each is visited in several rounds.
ROUNDS: Final = 4
WARMUP_CALLS: Final = 5
WARMUP_SECONDS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Raw times of one subject: milliseconds of loads, of calls for each batch size, and of runs on data already on the device."""

    execution: Execution
    loads_ms: list[float]
    calls_ms: dict[int, list[float]]
    device_ms: dict[int, list[float]]


def measure_latency(
    subjects: Sequence[Subject],
    batch_sizes: Sequence[int],
    images: Pixels,
    *,
    min_time_s: float,
    min_samples: int = SAMPLES_FOR_P90,
    device_only: bool = False,
    track: Track = silent,
) -> list[Timings]:
    """Time every subject at every batch size.

    In each of ``ROUNDS`` rounds each subject is loaded, warmed up at each batch size, timed for its share, and closed.

    Args:
        subjects: What to time.
        batch_sizes: Images per call.
        images: uint8 (N, size, size, 3), repeated as needed to fill a batch.
        min_time_s: Time to spend on the calls of one subject at one batch size, at least.
        min_samples: Number of calls, at least.
        device_only: Time the runs of ONNX models also with input and output already on the device.
        track: Progress reporter.

    Returns:
        Timings in the order of ``subjects``.
    """
    loads: dict[int, list[float]] = defaultdict(list)
    calls: dict[tuple[int, int], list[float]] = defaultdict(list)
    device: dict[tuple[int, int], list[float]] = defaultdict(list)
    executions: dict[int, Execution] = {}

    def visit(call: Callable[[], object]) -> list[float]:
        time_calls(call, seconds=WARMUP_SECONDS, least=WARMUP_CALLS)
        return time_calls(call, seconds=min_time_s / ROUNDS, least=-(-min_samples // ROUNDS))

    visits = list(product(range(ROUNDS), range(len(subjects))))
    for _, index in track(visits, "timing"):
        started = time.perf_counter()
        model = subjects[index].load()
        loads[index].append(1000 * (time.perf_counter() - started))
        executions[index] = Execution.of(model)
        try:
            for batch_size in batch_sizes:
                batch = np.resize(images, (batch_size, *images.shape[1:]))
                calls[index, batch_size] += visit(partial(model.logits, batch))
                if device_only and isinstance(model, Session):
                    bound = model.bind(batch_size)
                    bound.write(batch)
                    device[index, batch_size] += visit(bound.run)
        finally:
            model.close()
    return [
        Timings(
            execution=executions[i],
            loads_ms=loads[i],
            calls_ms={size: calls[i, size] for size in batch_sizes},
            device_ms={size: device[i, size] for size in batch_sizes},
        )
        for i in range(len(subjects))
    ]


def summarize(
    calls_ms: Sequence[float], batch_size: int, threads: int, original_p50_ms: float | None, device_ms: Sequence[float] = ()
) -> Latency:
    """Turn raw times of calls into the figures of a record."""
    times: NDArray[np.float64] = np.asarray(calls_ms)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return Latency(
        batch_size=batch_size,
        threads=threads,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99) if len(times) >= SAMPLES_FOR_P99 else None,
        mean_ms=float(times.mean()),
        std_ms=statistics.stdev(calls_ms) if len(times) > 1 else 0.0,
        samples=len(times),
        images_per_s=1000 * batch_size / float(p50),
        speedup_vs_original=original_p50_ms / float(p50) if original_p50_ms is not None else None,
        device_p50_ms=statistics.median(device_ms) if device_ms else None,
        samples_ms=[round(t, 4) for t in calls_ms],
    )
