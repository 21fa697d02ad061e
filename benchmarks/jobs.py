"""What the process of a model is asked to do for its latency."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.conditions import Moment, Usage, read_peak_memory
from benchmarks.subjects import Execution, LoadedModel, Subject
from edgeresnet.images import Pixels
from edgeresnet.session import Session
from edgeresnet.timing import time_calls

# Calls are warm when a window of them is not faster than the one before; a first call may take ten times as long as the fifth.
WINDOW_SECONDS: Final = 0.05
WINDOW_CALLS: Final = 3
WARMUP_SECONDS: Final = 2.0
STILL_FASTER: Final = 0.98


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
