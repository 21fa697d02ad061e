"""Loads other than one call after the other."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import scenarios
from benchmarks.latency import Timings
from benchmarks.layers import RUNS, WARMUP_RUNS, sum_layers
from benchmarks.scenarios import Plan, ServeArrivals, measure_loads, wait_until_cool
from benchmarks.subjects import OnnxSubject
from edgeresnet.errors import BenchmarkError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.progress import silent
from edgeresnet.target import Target

PIXELS = synthetic_images(32, 3)


class Model:
    """Takes the same time for every image."""

    def __init__(self, seconds):
        self.seconds, self.calls = seconds, 0

    def logits(self, pixels):
        self.calls += 1
        time.sleep(self.seconds)
        return np.zeros((len(pixels), 10), np.float32)


def test_a_wait_for_the_answers_before_is_part_of_the_time():
    """M/D/1: at a load of 0.8 a served image waits (0.8 / (2 (1 - 0.8))) = 2 service times on average; with few arrivals none."""
    kept = {"model": Model(0.004), "images": PIXELS}
    crowded, _ = ServeArrivals(200.0, 150, seed=1).run(kept)
    sparse, _ = ServeArrivals(20.0, 20, seed=2).run(kept)
    assert len(crowded) == 150
    assert np.median(sparse) < 8
    assert np.mean(crowded) > 1.3 * np.median(sparse)
    assert np.percentile(crowded, 99) > 2 * np.percentile(sparse, 50)


def test_arrivals_are_as_many_in_a_second_as_asked_for():
    started = time.perf_counter()
    ServeArrivals(100.0, 100, seed=0).run({"model": Model(0.0), "images": PIXELS})
    assert 0.6 < time.perf_counter() - started < 2.5


@pytest.fixture
def quickly(monkeypatch):
    for name, value in (("WARMUP_S", 0.01), ("MINUTE_S", 0.05), ("SERVER_TRIALS", 3), ("SAMPLES_FOR_P99", 40)):
        monkeypatch.setattr(scenarios, name, value)


@pytest.fixture
def rows(exports):
    return [(OnnxSubject.of(exports["int8"].path, Target(threads=1)), Timings()), (None, Timings(error="it never ran"))]


def test_every_load_is_measured_and_a_row_that_failed_is_passed_over(rows, quickly):
    plan = Plan(scenarios=("offline", "server", "sustained"), bound_ms=10_000.0, minutes=2, layers=True)
    (loads, nothing), interrupted = measure_loads(rows, plan, PIXELS, min_time_s=0.0, track=silent)
    assert not interrupted
    assert (loads.offline.batch_size, loads.offline.images_per_s > 0) == (64, True)
    assert [trial.held for trial in loads.server.trials] == [True] * 3
    assert loads.server.images_per_s == max(trial.rate_per_s for trial in loads.server.trials)
    rates = [trial.rate_per_s for trial in loads.server.trials]
    assert rates == sorted(rates)
    assert [trial.samples for trial in loads.server.trials] == [40] * 3
    assert [minute.samples > 0 for minute in loads.sustained] == [True, True]
    assert sum(layer.share for layer in loads.layers) == pytest.approx(1)
    assert "MatMulIntegerToFloat" in {kind for layer in loads.layers for kind in layer.operators}
    assert vars(nothing) == {"offline": None, "server": None, "sustained": None, "layers": None}


def test_a_bound_that_cannot_be_held_is_found_out_at_the_lowest_rate(rows, quickly):
    (loads, _), _ = measure_loads(rows, Plan(scenarios=("server",), bound_ms=0.001), PIXELS, min_time_s=0.0, track=silent)
    assert loads.server.images_per_s == 0.0
    assert [trial.held for trial in loads.server.trials] == [False]


def test_minutes_that_were_measured_before_ctrl_c_are_kept(rows, quickly):
    def interrupt(steps, description, total=None):
        yield from itertools.islice(steps, 2)
        raise KeyboardInterrupt

    (loads, _), interrupted = measure_loads(rows, Plan(scenarios=("sustained",), minutes=9), PIXELS, min_time_s=0.0, track=interrupt)
    assert interrupted
    assert len(loads.sustained) == 2


def test_a_server_needs_a_bound():
    with pytest.raises(ValueError, match="bound_ms must be given"):
        Plan(scenarios=("server",))


def test_the_next_model_waits_until_the_device_is_cool(monkeypatch):
    temperatures = iter([80.0, 70.0, 61.0, 50.0])
    monkeypatch.setattr(scenarios, "read_temperature", lambda: next(temperatures))
    pauses = []
    wait_until_cool(60.0, pauses.append)
    assert pauses == [5.0, 5.0]
    monkeypatch.setattr(scenarios, "read_temperature", lambda: 99.0)
    pauses.clear()
    wait_until_cool(60.0, pauses.append)
    assert sum(pauses) == 300.0
    wait_until_cool(None, lambda seconds: pytest.fail("no sensor, no wait"))


def test_layers_are_the_sums_of_their_nodes():
    def event(name, kind, milliseconds):
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": 1000 * milliseconds, "args": {"op_name": kind}}

    warm = [event("a/rows", "Gather", 1.0), event("a/product", "MatMulInteger", 2.0), event("b_nchwc", "Conv", 7.0)]
    cold = [{**entry, "dur": 99_000} for entry in warm] * WARMUP_RUNS
    other = [{"cat": "Session", "name": "model_run", "dur": 5}, {"cat": "Node", "name": "a_fence_before", "dur": 5}]
    layers = sum_layers([*cold, *other, *warm * RUNS])
    found = [(layer.layer, layer.operators, layer.p50_ms, layer.share) for layer in layers]
    assert found == [("b", ["Conv"], 7.0, 0.7), ("a", ["Gather", "MatMulInteger"], 3.0, pytest.approx(0.3))]


def test_layers_are_not_measured_on_a_gpu(exports):
    subject = SimpleNamespace(target=Target(provider="cuda"))
    with pytest.raises(BenchmarkError, match="on a GPU the profiler sees when work is queued"):
        scenarios.ProfileLayers(subject).run({})
