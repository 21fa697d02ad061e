"""Loads other than one image after the other: all images at hand, random arrivals, and running for a long time without a pause.

After MLPerf inference's scenarios (Reddi et al., MLPerf Inference Benchmark, arXiv:1911.02549).
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.conditions import Moment, Usage, read_frequency, read_temperature
from benchmarks.intervals import SAMPLES_FOR_P99, estimate_median
from benchmarks.jobs import KeepImages, Open, warm_up
from benchmarks.latency import Timings, measure_latency
from benchmarks.layers import ProfileLayers
from benchmarks.loads import LayerTime, Minute, Offline, Server, ServerTrial
from benchmarks.subjects import LoadedModel, OnnxSubject, Subject
from benchmarks.summary import Case, Visit, find_doubt, select
from benchmarks.worker import Worker
from edgeresnet.errors import BenchmarkError
from edgeresnet.images import Pixels
from edgeresnet.progress import Track
from edgeresnet.timing import time_calls

OFFLINE, SERVER, SUSTAINED = SCENARIOS = ("offline", "server", "sustained")
OFFLINE_BATCH: Final = 64
# Halvings of the range of rates, from a twentieth of what calls without a pause reach to all of it: to within 1 % of that.
SERVER_TRIALS: Final = 7
LEAST_LOAD: Final = 0.05
WARMUP_S: Final = 1.0
MINUTE_S: Final = 60.0
# A device that is hot from the model before is given so long to cool.
MOST_COOLING_S: Final = 300.0
COOL_ENOUGH_C: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which loads to measure.

    Attributes:
        scenarios: Of ``SCENARIOS``.
        bound_ms: Bound on the 99th percentile of ``server``, which needs one.
        minutes: Minutes of ``sustained``, of each model.
        layers: Whether to measure the time of each layer.
    """

    scenarios: tuple[str, ...] = ()
    bound_ms: float | None = None
    minutes: int = 30
    layers: bool = False

    def __post_init__(self) -> None:
        if SERVER in self.scenarios and self.bound_ms is None:
            raise ValueError("bound_ms must be given for the scenario 'server'")


NOTHING_ELSE: Final = Plan()


@dataclass
class Loads:
    """What one model did under each load that was asked for; None for the others, and for those that Ctrl-C prevented."""

    offline: Offline | None = None
    server: Server | None = None
    sustained: list[Minute] | None = None
    layers: list[LayerTime] | None = None


@dataclass(frozen=True)
class ServeArrivals:
    """Job: answer single images that arrive at random moments (Poisson), one after the other.

    Returns milliseconds from arrival to answer of each, and who had the cores meanwhile.
    """

    rate_per_s: float
    count: int
    seed: int

    def run(self, kept: dict[str, Any]) -> tuple[list[float], Usage]:
        model: LoadedModel = kept["model"]
        image: Pixels = kept["images"][:1]
        warm_up(partial(model.logits, image))
        arrivals = np.cumsum(np.random.default_rng(self.seed).exponential(1 / self.rate_per_s, self.count))
        before, began, answered = Moment.now(), time.perf_counter(), []
        for arrival in arrivals:
            early = began + arrival - time.perf_counter()
            if early > 0:
                time.sleep(early)
            model.logits(image)
            answered.append(1000 * (time.perf_counter() - began - arrival))
        return answered, before.until(Moment.now())


@dataclass(frozen=True)
class RunOn:
    """Job: single images without a pause; returns what is known of that minute."""

    seconds: float

    def run(self, kept: dict[str, Any]) -> Minute:
        before = Moment.now()
        times = time_calls(partial(kept["model"].logits, kept["images"][:1]), seconds=self.seconds)
        return Minute(
            p50_ms=statistics.median(times),
            samples=len(times),
            temperature_c=read_temperature(),
            frequency_mhz=read_frequency(),
            doubt=before.until(Moment.now()).doubt,
        )


def measure_loads(
    rows: Sequence[tuple[Subject, Timings]], plan: Plan, images: Pixels, *, min_time_s: float, track: Track
) -> tuple[list[Loads], bool]:
    """Measure every subject under every load that was asked for, one subject after the other but for ``offline``, which is in rounds.

    Returns:
        Loads in the order of ``rows``, and whether Ctrl-C ended it before. What cannot be measured has an ``error`` in its timings.
    """
    loads = [Loads() for _ in rows]
    start_c = read_temperature()
    try:
        if OFFLINE in plan.scenarios:
            for load, offline in zip(loads, measure_offline(rows, images, min_time_s, track), strict=True):
                load.offline = offline
        for (subject, timing), load in zip(rows, loads, strict=True):
            if timing.error is not None:
                continue
            try:
                if plan.layers and isinstance(subject, OnnxSubject):
                    load.layers = measure_layers(subject, images)
                if plan.bound_ms is not None and SERVER in plan.scenarios:
                    load.server = measure_server(subject, images, plan.bound_ms, track)
                if SUSTAINED in plan.scenarios:
                    wait_until_cool(start_c)
                    load.sustained = []
                    measure_sustained(subject, images, plan.minutes, track, load.sustained.append)
            except BenchmarkError as error:
                timing.error = str(error)
    except KeyboardInterrupt:
        return loads, True
    return loads, False


def measure_offline(rows: Sequence[tuple[Subject, Timings]], images: Pixels, min_time_s: float, track: Track) -> list[Offline | None]:
    """Throughput of each subject with large batches, in interleaved rounds; None for those that cannot be measured."""
    case = Case(OFFLINE_BATCH)
    timings = [Timings(error=timing.error) for _, timing in rows]
    running = [(subject, timing) for (subject, _), timing in zip(rows, timings, strict=True) if timing.error is None]
    measure_latency(running, [case], images, min_time_s=min_time_s, min_samples=1, track=track)
    return [_describe_offline(timing.visits.get(case, []), case) for timing in timings]


def _describe_offline(visits: Sequence[Visit], case: Case) -> Offline | None:
    if not visits:
        return None
    median = estimate_median(select(visits))
    return Offline(
        batch_size=case.batch_size,
        images_per_s=1000 * case.batch_size / median.value,
        interval95=(1000 * case.batch_size / median.interval[1], 1000 * case.batch_size / median.interval[0]) if median.interval else None,
        doubt=find_doubt(visits),
    )


def measure_server(subject: Subject, images: Pixels, bound_ms: float, track: Track) -> Server:
    """Find the highest rate of random arrivals at which the 99th percentile, waiting included, stays within a bound.

    Raises:
        BenchmarkError: If the model cannot be measured.
    """
    with _at_work(subject, images) as worker:
        alone = worker.do(RunOn(1.0))
        low, high = LEAST_LOAD * 1000 / alone.p50_ms, 1000 / alone.p50_ms
        trials: list[ServerTrial] = []
        doubts: list[str] = []
        for seed in track(range(SERVER_TRIALS), f"arrivals for {subject.name}"):
            rate = low if not trials else (low + high) / 2
            answered, usage = worker.do(ServeArrivals(rate, SAMPLES_FOR_P99, seed))
            if usage.doubt is not None:
                doubts.append(usage.doubt)
            p99 = float(np.percentile(answered, 99))
            trials.append(ServerTrial(rate_per_s=rate, p99_ms=p99, samples=len(answered), held=p99 <= bound_ms))
            if not trials[0].held:
                break
            low, high = (rate, high) if trials[-1].held else (low, rate)
    doubt = f"the machine was busy in {len(doubts)} of {len(trials)} trials: {doubts[0]}" if doubts else None
    best = max((trial.rate_per_s for trial in trials if trial.held), default=0.0)
    return Server(bound_ms=bound_ms, images_per_s=best, trials=trials, doubt=doubt)


def measure_sustained(subject: Subject, images: Pixels, minutes: int, track: Track, keep: Callable[[Minute], None]) -> None:
    """Run a model without a pause, and hand on every minute as it ends: what an interrupted run has measured is kept.

    Raises:
        BenchmarkError: If the model cannot be measured.
    """
    with _at_work(subject, images) as worker:
        for _ in track(range(minutes), f"minutes of {subject.name}"):
            keep(worker.do(RunOn(MINUTE_S)))


def measure_layers(subject: OnnxSubject, images: Pixels) -> list[LayerTime]:
    """Time of each layer of a model, the slowest first.

    Raises:
        BenchmarkError: If the model cannot be measured.
    """
    with Worker() as worker:
        worker.do(KeepImages(images[:1]))
        return worker.do(ProfileLayers(subject))


def wait_until_cool(start_c: float | None, sleep: Callable[[float], None] = time.sleep) -> None:
    """Let the device cool down to near its temperature at the start, for some minutes at most; at once where there is no sensor."""
    waited = 0.0
    while start_c is not None and (now := read_temperature()) is not None and now > start_c + COOL_ENOUGH_C and waited < MOST_COOLING_S:
        sleep(5.0)
        waited += 5.0


@contextmanager
def _at_work(subject: Subject, images: Pixels) -> Iterator[Worker]:
    """A process of its own in which a model is loaded and warm."""
    with Worker() as worker:
        worker.do(KeepImages(images[:1]))
        worker.do(Open(subject))
        worker.do(RunOn(WARMUP_S))
        yield worker
