"""Latency: each model in a process of its own, one at work at a time, in interleaved rounds."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

from benchmarks.intervals import LEAST_ROUNDS, SAMPLES_FOR_P90
from benchmarks.jobs import Close, KeepImages, Open, TimeCalls
from benchmarks.subjects import Execution, Subject
from benchmarks.summary import BELIEVED_ROUNDS, Case, Visit
from benchmarks.worker import Job, Worker
from edgeresnet.errors import BenchmarkError
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent

T = TypeVar("T")

# The machine's speed drifts, so each model is visited in several rounds; intervals are over rounds, and ten are enough for one of 95 %
# (in simulated rounds that drift by 3 % it held the true ratio in 95 of 100 cases).
ROUNDS: Final = 10
SHORTEST_ROUND_S: Final = 0.1
# Where too few of them are quiet, up to so many times as many are run, with a pause before each of the later ones.
PATIENCE: Final = 2
PAUSE_S: Final = 1.0
IMAGES_KEPT: Final = 256


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
    """Round by round the number of each subject, until there are enough quiet rounds or ``PATIENCE`` ends."""
    for number in range(PATIENCE * rounds):
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
