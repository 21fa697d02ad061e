"""Rounds, warm-up and which of them are believed: with models that write down what is done to them, in this process."""

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.conditions import Usage
from benchmarks.jobs import Close, KeepImages, Open, TimeCalls, warm_up
from benchmarks.latency import ROUNDS, Timings, count_rounds, measure_latency
from benchmarks.subjects import Execution, OnnxSubject
from benchmarks.summary import BELIEVED_ROUNDS, Case, Visit, summarize
from edgeresnet.errors import BenchmarkError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.session import Session
from edgeresnet.target import Target

PIXELS = synthetic_images(32, 3)
QUIET = Usage(wall_s=1.0, cores_used=1.0, waited=0.0, others=0.0, stolen=0.0)
BUSY = replace(QUIET, others=1.0)


@dataclass
class Spy:
    """A model, and a subject, that writes down what is done to it."""

    name: str = "spy"
    events: list[str] = field(default_factory=list)
    batches: list = field(default_factory=list)
    provider: str = "none"
    pause_s: float = 0.0
    slow_calls: int = 0
    threads: int | None = None
    path: Path = Path("spy")

    def load(self):
        self.events.append(f"open {self.name}" + (f" on {self.threads}" if self.threads else ""))
        self.calls = 0
        return self

    def with_threads(self, threads):
        return replace(self, threads=threads)

    def logits(self, pixels):
        self.calls += 1
        self.batches.append(pixels)
        time.sleep(0.05 if self.calls <= self.slow_calls else self.pause_s)
        return np.zeros((len(pixels), 10), np.float32)

    def close(self):
        self.events.append(f"close {self.name}")


class Here:
    """Does jobs in this process; what has the cores is made up, one usage after the other for each visit."""

    def __init__(self, usages=()):
        self.kept, self.usages = {}, list(usages)

    def do(self, job):
        found = job.run(self.kept)
        if isinstance(job, TimeCalls) and self.usages:
            return (*found[:3], self.usages.pop(0))
        return found


ONE_IMAGE = (Case(),)


def measure(subjects, cases=ONE_IMAGE, *, usages=(), seconds=0.0, samples=8, **named):
    rows = [(subject, Timings()) for subject in subjects]
    workers = iter([Here(part) for part in (usages or [[QUIET] * 99] * len(subjects))])
    interrupted = measure_latency(
        rows, cases, PIXELS, min_time_s=seconds, min_samples=samples, start=lambda: nullcontext(next(workers)), **named
    )
    return [timing for _, timing in rows], interrupted


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr("benchmarks.latency.PAUSE_S", 0.0)
    monkeypatch.setattr("benchmarks.latency.PATIENCE", 2)
    monkeypatch.setattr("benchmarks.jobs.WINDOW_SECONDS", 0.0)


def test_models_are_visited_in_turns_round_after_round():
    events = []
    timings, interrupted = measure([Spy("a", events), Spy("b", events)], [Case(1), Case(7)], samples=9)
    assert events == ["open a", "close a", "open b", "close b"] * 3
    assert not interrupted
    assert [len(visit.calls_ms) for visit in timings[0].visits[Case(7)]] == [3, 3, 3]
    assert [visit.number for visit in timings[1].visits[Case(1)]] == [0, 1, 2]
    assert len(timings[0].loads_ms) == 3


def test_a_number_of_threads_is_a_model_opened_anew():
    events = []
    measure([Spy("a", events)], [Case(1, 1), Case(4, 1), Case(1, 2)])
    assert events == ["open a on 1", "close a", "open a on 2", "close a"] * 3


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (0.3, 3), (0.75, 7), (1.0, 10), (60.0, 10)])
def test_a_round_is_no_shorter_than_a_tenth_of_a_second_if_three_remain(seconds, rounds):
    assert count_rounds(seconds) == rounds
    assert rounds <= ROUNDS


def test_the_minimum_time_is_spent_over_all_rounds():
    (timing,), _ = measure([Spy(pause_s=0.01)], seconds=0.4, samples=1)
    assert 390 < sum(sum(visit.calls_ms) for visit in timing.visits[Case()]) < 900


def test_calls_are_warm_before_they_are_timed():
    (timing,), _ = measure([Spy(pause_s=0.001, slow_calls=5)])
    assert max(max(visit.calls_ms) for visit in timing.visits[Case()]) < 40
    assert all(visit.warmup_calls >= 6 for visit in timing.visits[Case()])


def test_warming_up_goes_on_as_long_as_calls_become_faster():
    pauses = iter([0.02] * 3 + [0.015] * 3 + [0.01] * 3 + [0.005] * 3 + [0.001] * 3 + [0.001] * 99)
    assert warm_up(lambda: time.sleep(next(pauses))) >= 18


def test_a_batch_repeats_images_in_their_order():
    spy = Spy()
    measure([spy], [Case(5)])
    np.testing.assert_array_equal(spy.batches[0], PIXELS[[0, 1, 2, 0, 1]])


def test_busy_rounds_are_made_up_for():
    """Rounds of both models are, since they are compared round by round."""
    usages = [[BUSY, QUIET, QUIET, QUIET, QUIET], [QUIET] * 9]
    timings, _ = measure([Spy("a"), Spy("b")], usages=usages)
    assert [[visit.usage.doubt is None for visit in timing.visits[Case()]] for timing in timings] == [[False, True, True, True], [True] * 4]


def test_there_are_at_most_twice_as_many_rounds_as_planned():
    (timing,), _ = measure([Spy()], usages=[[BUSY] * 99])
    assert len(timing.visits[Case()]) == 6


def test_what_fails_does_not_end_the_others():
    class Failing(Spy):
        def load(self):
            raise BenchmarkError("no such kernel")

    (broken, whole), _ = measure([Failing("a"), Spy("b")])
    assert (broken.error, broken.visits[Case()], broken.execution) == ("no such kernel", [], None)
    assert (whole.error, len(whole.visits[Case()])) == (None, 3)


def test_ctrl_c_keeps_what_was_measured_of_every_model_or_nothing():
    def interrupt_after(calls):
        class Interrupted(Spy):
            def load(self):
                if len(self.events) >= calls:
                    raise KeyboardInterrupt
                return super().load()

        return Interrupted

    (first, second), interrupted = measure([interrupt_after(2)("a"), Spy("b")])
    assert interrupted
    assert (len(first.visits[Case()]), len(second.visits[Case()])) == (1, 1)
    with pytest.raises(KeyboardInterrupt):
        measure([Spy("a"), interrupt_after(0)("b")])


def test_runs_on_the_device_are_of_the_same_images(exports, monkeypatch):
    bound, bind = [], Session.bind
    monkeypatch.setattr(Session, "bind", lambda session, count: bound.append(bind(session, count)) or bound[-1])
    worker = Here()
    worker.do(KeepImages(PIXELS))
    worker.do(Open(OnnxSubject.of(exports["fp32"].path, Target(threads=1))))
    _, calls, device, _ = worker.do(TimeCalls(batch_size=2, seconds=0.0, least=4, device_only=True))
    np.testing.assert_allclose(bound[-1].read(), Session(exports["fp32"].path).logits(PIXELS[:2]), rtol=1e-5, atol=1e-5)
    assert (len(calls), len(device)) == (4, 4)
    assert worker.do(Close()) > 50e6


def visits(*rounds, usages=None):
    usages = usages or [QUIET] * len(rounds)
    return [Visit(i, float(i), 5, list(times), [], usage) for i, (times, usage) in enumerate(zip(rounds, usages, strict=True))]


def test_figures_follow_from_the_samples():
    times = [float(i) for i in range(1, 103)]
    latency = summarize(visits(times[::3], times[1::3], times[2::3]), Case(4), 2, visits([102.0], [103.0], [104.0]))
    assert (latency.p50_ms, latency.mean_ms, latency.samples, latency.threads) == (51.5, 51.5, 102, 2)
    assert latency.p90_ms == pytest.approx(91.9)
    assert latency.p99_ms is None
    assert latency.images_per_s == pytest.approx(4000 / 51.5)
    assert latency.speedup_vs_original == 2.0
    low, high = latency.p50_interval95
    assert 48 < low <= 51.5
    assert 51 <= high < 55
    assert [value for part in latency.believed_rounds.values() for value in part] == [*times[::3], *times[1::3], *times[2::3]]
    assert [visit.samples for visit in latency.rounds] == [34, 34, 34]
    assert latency.warmup_calls == 15


@pytest.mark.parametrize(("count", "p90", "p99"), [(63, False, False), (64, True, False), (661, True, False), (662, True, True)])
def test_a_percentile_needs_its_samples(count, p90, p99):
    latency = summarize(visits([1.0] * count), Case(), 1, None)
    assert (latency.p90_ms is not None, latency.p99_ms is not None) == (p90, p99)
    assert latency.speedup_vs_original is None


@given(st.lists(st.floats(0.01, 1000), min_size=2, max_size=900), st.integers(1, 64))
def test_the_summary_of_times_is_scipys(times, batch_size):
    latency = summarize(visits(times), Case(batch_size), 3, visits([42.0]))
    for value, share in ((latency.p50_ms, 0.5), (latency.p90_ms, 0.9), (latency.p99_ms, 0.99)):
        if value is not None:
            assert value == pytest.approx(stats.mstats.mquantiles(times, share, alphap=1, betap=1)[0], rel=1e-9)
    assert latency.std_ms == pytest.approx(np.std(times, ddof=1), rel=1e-6, abs=1e-9)
    assert latency.mean_ms == pytest.approx(stats.tmean(times), rel=1e-9)
    assert (latency.images_per_s, latency.speedup_vs_original) == (1000 * batch_size / latency.p50_ms, 42.0 / latency.p50_ms)
    np.testing.assert_allclose(latency.samples_ms, times, atol=5.1e-5)


def test_busy_rounds_do_not_count_where_there_are_enough_others():
    usages = [BUSY] * 3 + [QUIET] * BELIEVED_ROUNDS
    found = summarize(visits(*[[9.0]] * 3, *[[1.0]] * BELIEVED_ROUNDS, usages=usages), Case(), 1, visits(*[[4.0]] * 8))
    assert (found.p50_ms, found.samples, found.doubt, found.speedup_vs_original) == (1.0, BELIEVED_ROUNDS, None, 4.0)
    assert len(found.samples_ms) == 8


def test_figures_of_a_busy_machine_have_a_doubt_and_no_speedup():
    usages = [BUSY] * 6 + [QUIET] * 4
    slow, quiet = visits(*[[9.0]] * 6, *[[1.0]] * 4, usages=usages), visits(*[[4.0]] * 10)
    found = summarize(slow, Case(), 1, quiet)
    assert (found.p50_ms, found.speedup_vs_original, found.speedup_interval95) == (9.0, None, None)
    assert found.doubt == "the machine was busy in 6 of 10 rounds: other processes kept 1.0 cores busy"
    other = summarize(quiet, Case(), 1, slow)
    assert (other.p50_ms, other.speedup_vs_original) == (4.0, None)
    assert other.doubt == f"the original's time is not believed: {found.doubt}"


def test_a_speedup_is_of_rounds_in_which_both_were_quiet():
    usages = [[BUSY if (i < 5) == first else QUIET for i in range(10)] for first in (True, False)]
    first, second = (visits(*[[1.0]] * 10, usages=part) for part in usages)
    assert summarize(first, Case(), 1, second).doubt == "it was never quiet for this model and the original in the same rounds"


def test_a_processor_is_not_compared_with_a_gpu():
    cpu, gpu, also_gpu = (Timings(execution=Execution(name)) for name in ("CPUExecutionProvider", "CUDAExecutionProvider", "PyTorch CUDA"))
    assert gpu.is_beside(also_gpu)
    assert not cpu.is_beside(gpu)
    assert not Timings().is_beside(cpu)
    assert Counter(map(cpu.is_beside, (cpu, Timings(execution=Execution("PyTorch CPU"))))) == {True: 2}
