"""Latency: each model in a process of its own, one at work at a time, in interleaved rounds."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.conditions import Moment, Usage, read_peak_memory
from benchmarks.intervals import (
    LEAST_ROUNDS,
    SAMPLES_FOR_P90,
    SAMPLES_FOR_P99,
    estimate_median,
    estimate_paired_ratio,
)
from benchmarks.record import Latency, Round
from benchmarks.subjects import Execution, LoadedModel, Subject
from benchmarks.worker import Job, Worker
from edgeresnet.errors import BenchmarkError
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.timing import time_calls

T = TypeVar("T")

# The machine's speed drifts, so each model is visited in several rounds; intervals are over rounds, and ten are enough for one of 95 %
# (in simulated rounds that drift by 3 % it held the true ratio in 95 of 100 cases).
ROUNDS: Final = 10
SHORTEST_ROUND_S: Final = 0.1
# Figures are of rounds in which nothing else had the cores, if there are so many; as many rounds again are measured to find them.
BELIEVED_ROUNDS: Final = 5
PAUSE_S: Final = 1.0
# Calls are warm when a window of them is not faster than the one before; a first call may take ten times as long as the fifth.
WINDOW_SECONDS: Final = 0.05
WINDOW_CALLS: Final = 3
WARMUP_SECONDS: Final = 2.0
STILL_FASTER: Final = 0.98
IMAGES_KEPT: Final = 256


@dataclass(frozen=True)
class Case:
    """What a call is: so many images, on so many CPU threads; None leaves the threads as the model's own target has them."""

    batch_size: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Visit:
    """One round of one case: milliseconds of calls, how many were made before them, and who had the cores meanwhile."""

    number: int
    started_s: float
    warmup_calls: int
    calls_ms: list[float]
    device_ms: list[float]
    usage: Usage

    @property
    def round(self) -> Round:
        """What a record keeps of it beside the times."""
        usage = self.usage
        return Round(
            samples=len(self.calls_ms),
            started_s=round(self.started_s, 3),
            cores_used=round(usage.cores_used, 3),
            waited=_rounded(usage.waited),
            others=_rounded(usage.others),
            stolen=_rounded(usage.stolen),
            doubt=usage.doubt,
        )


@dataclass
class Timings:
    """What was measured of one subject.

    Attributes:
        execution: How it really ran; None if it never loaded.
        loads_ms: Milliseconds of each load.
        visits: For each case, in the order of its rounds.
        peak_memory_bytes: Most memory that its process had.
        error: Why it could not be measured to the end.
    """

    execution: Execution | None = None
    loads_ms: list[float] = field(default_factory=list)
    visits: dict[Case, list[Visit]] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    error: str | None = None

    def is_beside(self, other: "Timings") -> bool:
        """Whether both ran on the same kind of device: a comparison of a processor with a GPU is none of two models."""
        if self.execution is None or other.execution is None:
            return False
        return self.execution.is_on_gpu == other.execution.is_on_gpu

    def count_quiet(self, case: Case) -> int:
        """Rounds of a case in which nothing else had the cores."""
        return sum(visit.usage.doubt is None for visit in self.visits[case])


class DoesJobs(Protocol):
    """What a ``Worker`` does, here or elsewhere."""

    def do(self, job: Job[T]) -> T: ...


@dataclass(frozen=True)
class Opened:
    """A model that was just loaded."""

    execution: Execution
    load_ms: float


@dataclass(frozen=True)
class Open:
    """Job: load a model in place of the one that is there."""

    subject: Subject

    def run(self, kept: dict[str, Any]) -> Opened:
        started = time.perf_counter()
        model = self.subject.load()
        kept["model"] = model
        return Opened(Execution.of(model), 1000 * (time.perf_counter() - started))


@dataclass(frozen=True)
class KeepImages:
    """Job: keep images, uint8 (N, height, width, channels), for the calls to come."""

    images: Pixels

    def run(self, kept: dict[str, Any]) -> None:
        kept["images"] = self.images


@dataclass(frozen=True)
class Close:
    """Job: close the model; returns the most memory that the process had."""

    def run(self, kept: dict[str, Any]) -> int | None:
        kept.pop("model").close()
        return read_peak_memory()


@dataclass(frozen=True)
class TimeCalls:
    """Job: warm the model up for a batch size, then time calls."""

    batch_size: int
    seconds: float
    least: int
    device_only: bool

    def run(self, kept: dict[str, Any]) -> tuple[int, list[float], list[float], Usage]:
        model: LoadedModel = kept["model"]
        images: Pixels = kept["images"]
        batch = np.resize(images, (self.batch_size, *images.shape[1:]))
        call = partial(model.logits, batch)
        before = Moment.now()
        warmup_calls = warm_up(call)
        calls_ms = time_calls(call, seconds=self.seconds, least=self.least)
        device_ms: list[float] = []
        if self.device_only and isinstance(model, Session):
            bound = model.bind(self.batch_size)
            bound.write(batch)
            warm_up(bound.run)
            device_ms = time_calls(bound.run, seconds=self.seconds, least=self.least)
        return warmup_calls, calls_ms, device_ms, before.until(Moment.now())


def warm_up(call: Callable[[], object]) -> int:
    """Call until calls do not become faster any more; returns how many it took."""
    count, previous = 0, float("inf")
    until = time.perf_counter() + WARMUP_SECONDS
    while True:
        window = time_calls(call, seconds=WINDOW_SECONDS, least=WINDOW_CALLS)
        count += len(window)
        median = statistics.median(window)
        if median > STILL_FASTER * previous or time.perf_counter() > until:
            return count
        previous = median


def measure_latency(
    rows: Sequence[tuple[Subject, Timings]],
    cases: Sequence[Case],
    images: Pixels,
    *,
    min_time_s: float,
    min_samples: int = SAMPLES_FOR_P90,
    device_only: bool = False,
    track: Track = silent,
    start: Callable[[], AbstractContextManager[DoesJobs]] = Worker,
) -> bool:
    """Time every subject in every case.

    In each of ``count_rounds`` rounds each subject is loaded, warmed up and timed for its share of each case, and closed. Rounds in which
    something else had the cores are made up for, as long as there are not more than as many of them.

    Args:
        rows: What to time, and where to write it down; what cannot be measured gets an ``error``.
        cases: Batch sizes and numbers of threads.
        images: uint8 (N, height, width, channels), repeated as needed to fill a batch.
        min_time_s: Time to spend on the calls of one subject in one case, at least.
        min_samples: Number of calls, at least.
        device_only: Time the runs of ONNX models also with input and output already on the device.
        track: Progress reporter.
        start: Gives each subject its process.

    Returns:
        Whether Ctrl-C ended it before all rounds, but after the first.
    """
    timings = [timing for _, timing in rows]
    for timing in timings:
        timing.visits.update((case, []) for case in cases)
    rounds = count_rounds(min_time_s)
    share = partial(TimeCalls, seconds=min_time_s / rounds, least=-(-min_samples // rounds), device_only=device_only)
    began = time.perf_counter()
    with ExitStack() as stack:
        workers = [stack.enter_context(start()) for _ in rows]
        try:
            for worker in workers:
                worker.do(KeepImages(images[:IMAGES_KEPT]))
            for number, index in track(_schedule(timings, rounds), "timing", rounds * len(rows)):
                if timings[index].error is None:
                    _visit(workers[index], *rows[index], share, number, began)
        except KeyboardInterrupt:
            if not all(timing.error or all(timing.visits.values()) for timing in timings):
                raise
            return True
    return False


def count_rounds(min_time_s: float) -> int:
    """Visits of each subject: as many as an interval wants, fewer where that would make them too short to be worth a visit."""
    return min(ROUNDS, max(LEAST_ROUNDS, int(min_time_s / SHORTEST_ROUND_S)))


def _schedule(timings: Sequence[Timings], rounds: int) -> Iterator[tuple[int, int]]:
    """Round by round the number of each subject, until there are enough quiet rounds or twice as many as planned."""
    for number in range(2 * rounds):
        if number >= rounds:
            if all(timing.error or all(map(partial(_has_enough, timing, rounds), timing.visits)) for timing in timings):
                return
            time.sleep(PAUSE_S)
        for index in range(len(timings)):
            yield number, index


def _has_enough(timing: Timings, rounds: int, case: Case) -> bool:
    return timing.count_quiet(case) >= min(BELIEVED_ROUNDS, rounds)


def _visit(worker: DoesJobs, subject: Subject, timing: Timings, share: Callable[[int], TimeCalls], number: int, began: float) -> None:
    """One round of a subject, all cases."""
    try:
        for threads in dict.fromkeys(case.threads for case in timing.visits):
            opened = worker.do(Open(subject if threads is None else subject.with_threads(threads)))
            timing.execution = opened.execution
            timing.loads_ms.append(opened.load_ms)
            for case, visits in timing.visits.items():
                if case.threads == threads:
                    started = time.perf_counter() - began
                    visits.append(Visit(number, started, *worker.do(share(case.batch_size))))
            timing.peak_memory_bytes = worker.do(Close())
    except BenchmarkError as error:
        timing.error = str(error)


def summarize(visits: Sequence[Visit], case: Case, threads: int, original: Sequence[Visit] | None) -> Latency:
    """Turn the rounds of a subject into the figures of a record.

    Args:
        visits: At least one.
        case: What was called.
        threads: CPU threads that a call could use.
        original: Rounds of what it is compared with; None where there is nothing, or nothing comparable.
    """
    doubt = find_doubt(visits)
    rounds = select(visits)
    times: NDArray[np.float64] = np.concatenate([np.asarray(part) for part in rounds.values()])
    median = estimate_median(rounds)
    speedup = None
    if original is not None and doubt is None:
        against = find_doubt(original)
        theirs = select(original)
        if against is not None:
            doubt = f"the original's time is not believed: {against}"
        elif len(rounds.keys() & theirs.keys()) < min(LEAST_ROUNDS, len(rounds)):
            doubt = "it was never quiet for this model and the original in the same rounds"
        else:
            speedup = estimate_paired_ratio(theirs, rounds)
    device_ms = [value for visit in visits for value in visit.device_ms]
    return Latency(
        batch_size=case.batch_size,
        threads=threads,
        p50_ms=median.value,
        p50_interval95=median.interval,
        p90_ms=float(np.percentile(times, 90)) if len(times) >= SAMPLES_FOR_P90 else None,
        p99_ms=float(np.percentile(times, 99)) if len(times) >= SAMPLES_FOR_P99 else None,
        mean_ms=float(times.mean()),
        std_ms=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
        samples=len(times),
        images_per_s=1000 * case.batch_size / median.value,
        speedup_vs_original=speedup.value if speedup else None,
        speedup_interval95=speedup.interval if speedup else None,
        device_p50_ms=statistics.median(device_ms) if device_ms else None,
        doubt=doubt,
        warmup_calls=sum(visit.warmup_calls for visit in visits),
        rounds=[visit.round for visit in visits],
        samples_ms=[round(value, 4) for visit in visits for value in visit.calls_ms],
    )


def find_doubt(visits: Sequence[Visit]) -> str | None:
    """Why times should not be believed: too few of the rounds were quiet."""
    doubts = Counter(visit.usage.doubt for visit in visits if visit.usage.doubt is not None)
    if not doubts or len(visits) - doubts.total() >= min(BELIEVED_ROUNDS, math.ceil(len(visits) / 2)):
        return None
    return f"the machine was busy in {doubts.total()} of {len(visits)} rounds: {doubts.most_common(1)[0][0]}"


def select(visits: Sequence[Visit]) -> dict[int, list[float]]:
    """Times of the calls of each round that the figures are of, by its number."""
    believes_all = find_doubt(visits) is not None
    return {visit.number: visit.calls_ms for visit in visits if believes_all or visit.usage.doubt is None}


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if value is not None else None
