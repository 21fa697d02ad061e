import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

from benchmarks.subjects import OnnxSubject
from benchmarks.tuning.judging import Judged, judge
from benchmarks.tuning.racing import FINALISTS, Raced, race
from benchmarks.tuning.result import tune
from benchmarks.tuning.space import Goal, list_targets
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages, read_split
from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import available_cores
from edgeresnet.profile import Profile
from edgeresnet.progress import silent
from edgeresnet.providers import ALL
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec
from edgeresnet.target import Target
from exporters.metadata import stamp


@pytest.fixture(scope="module")
def tuning(exports):
    return tune([exports["int8"].path, exports["fp32"].path], Goal(min_agreement=0.9, budget_s=0), threads=2)


def test_every_way_is_timed_and_judged_by_the_fp32_model(tuning):
    assert tuning.reference == "resnet18-fp32.onnx"
    assert sorted((c.judged.subject.name, c.judged.subject.target.threads) for c in tuning.ranked) == [
        (f"resnet18-{precision}.onnx", threads) for precision in ("fp32", "int8") for threads in (1, 2)
    ]
    assert all(c.calls_ms for c in tuning.ranked)
    assert {c.judged.agreement for c in tuning.ranked if c.judged.subject.spec.precision == "fp32"} == {1.0}
    assert set(tuning.unavailable) == {"cuda", "openvino"}
    finalists = [c.p50_ms for c in tuning.ranked[:FINALISTS]]
    assert finalists == sorted(finalists)


def test_the_winner_becomes_a_profile_that_runs(tuning, tmp_path):
    path = tmp_path / "deploy.json"
    tuning.profile.write(path)
    profile = Profile.read(path)
    best = tuning.ranked[0]
    assert (profile.target, profile.p50_ms) == (best.judged.subject.target, best.p50_ms)
    assert Session(profile.model, profile.target).target.threads == best.judged.subject.target.threads


def test_the_slower_half_is_dropped_after_each_round(exports, monkeypatch):
    """Eight ways to run a model that differ in time by a factor of two each."""

    class Sleeper:
        def __init__(self, seconds):
            self.seconds = seconds

        def load(self):
            return self

        def logits(self, batch):
            time.sleep(self.seconds)

        def close(self):
            pass

    candidates = [Judged(subject=Sleeper(0.002 * 2**i)) for i in (3, 7, 0, 5, 1, 6, 2, 4)]
    batch = np.zeros((1, 32, 32, 3), np.uint8)
    monkeypatch.setattr("benchmarks.tuning.racing.FINAL_SLICE_S", 0.05)
    ranked = race(candidates, batch, Goal(budget_s=60), silent)
    assert [c.judged.subject.seconds for c in ranked] == [0.002 * 2**i for i in range(8)]
    everything = race(candidates, batch, Goal(exhaustive=True), silent)
    assert [c.judged.subject.seconds for c in everything] == [0.002 * 2**i for i in range(8)]
    assert len(everything[-1].calls_ms) == 4


def test_what_answers_differently_is_left_out_with_the_reason(exports, labelled_folder, tmp_path):
    model = onnx.load(exports["fp32"].path)
    for tensor in model.graph.initializer:
        if tensor.name == "network.fc.weight":
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    (tmp_path / "wrong.onnx").write_bytes(stamp(model, replace(spec, precision="fp16")))
    test = read_split(labelled_folder, "test")
    right = replace(test, labels=Session(exports["fp32"].path).logits(test.images).argmax(1))
    paths = [exports["fp32"].path, tmp_path / "wrong.onnx"]
    tuning = tune(paths, Goal(budget_s=0), threads=1, providers=["cpu"], data=right)
    assert [c.judged.subject.name for c in tuning.ranked] == ["resnet18-fp32.onnx"]
    (wrong,) = tuning.refused
    assert wrong.refused == f"agrees on {wrong.agreement:.2%} of the images only"
    assert wrong.agreement < 0.5

    (wrong,) = tune(paths, Goal(min_agreement=0, max_drop=1, budget_s=0), threads=1, providers=["cpu"], data=right).refused
    assert wrong.refused == f"loses {100 * (1 - wrong.top1):.2f} points of top-1"


def test_networks_that_differ_and_providers_that_do_not_start_are_errors(exports, tmp_path):
    model = onnx.load(exports["fp32"].path)
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    (tmp_path / "other.onnx").write_bytes(stamp(model, replace(spec, labels=tuple("abcdefghij"))))
    with pytest.raises(ModelFormatError, match="one network at a time"):
        tune([exports["fp32"].path, tmp_path / "other.onnx"], Goal())
    with pytest.raises(ProviderError, match="built without CUDA"):
        tune([exports["fp32"].path], Goal(), providers=["cuda"])


def test_the_ways_are_those_that_can_differ():
    assert [t.threads for t in list_targets("cpu", "int8", "latency", 6)] == [1, 2, 4, 6]
    many = list_targets("cpu", "fp32", "throughput", 2)
    assert {(t.threads, t.streams, t.micro_batch) for t in many} == {
        (threads, streams, batch) for threads, streams in ((1, 1), (2, 1), (2, 2)) for batch in (1, 4, 16, 32)
    }
    assert {(t.threads, t.streams, t.micro_batch) for t in list_targets("cpu", "int8", "throughput", 2)} == {
        (1, 1, None),
        (2, 1, None),
        (2, 2, None),
    }
    graphs = [(t.exact, t.provider_options.get("enable_cuda_graph")) for t in list_targets("cuda", "fp16", "latency", 2)]
    assert sorted(graphs, key=str) == [(False, "1"), (False, None), (True, "1"), (True, None)]
    assert {(t.micro_batch, t.exact) for t in list_targets("cuda", "fp16", "throughput", 2)} == {
        (batch, exact) for batch in (32, 128, 256) for exact in (True, False)
    }


def test_a_candidate_reports_images_per_second(exports):
    judged = Judged(subject=OnnxSubject.of(exports["fp32"].path, Target()))
    candidate = Raced(judged=judged, images_per_call=64, calls_ms=(100.0, 400.0, 200.0))
    assert (candidate.p50_ms, candidate.images_per_s) == (200.0, 320.0)


SIZE = 32


@pytest.fixture
def briefly(monkeypatch):
    """Timings that are long enough to be there."""
    monkeypatch.setattr("benchmarks.tuning.racing.FINAL_SLICE_S", 0.01)
    monkeypatch.setattr("benchmarks.tuning.racing.FIRST_SLICE_S", 0.01)


@pytest.fixture(scope="module")
def beside(exports, astray):
    """The FP32 model, one that answers otherwise, and images with labels of which each model is right on a part."""
    images = synthetic_images(SIZE, 60, seed=2)
    reference, other = (Session(path).logits(images).argmax(1) for path in (exports["fp32"].path, astray))
    labels = reference.copy()
    labels[::4] = (reference[::4] + 1) % 10
    data = LabelledImages(images=images, labels=labels, classes=CIFAR10_LABELS, name="sixty images")
    agreement = float((reference == other).mean())
    drop = 100 * float((reference == labels).mean() - (other == labels).mean())
    assert 0.3 < agreement < 0.95
    assert drop > 5
    return data, [exports["fp32"].path, astray], agreement, drop


@pytest.mark.usefixtures("briefly")
def test_the_least_agreement_is_the_one_that_was_asked_for(beside):
    data, paths, agreement, _ = beside
    for least, refused in ((agreement - 0.001, 0), (agreement + 0.001, 1)):
        goal = Goal(min_agreement=least, budget_s=0)
        tuning = tune(paths, goal, threads=1, providers=["cpu"], data=data)
        assert len(tuning.refused) == refused
        (other,) = [c for c in (*(each.judged for each in tuning.ranked), *tuning.refused) if c.subject.name == "astray.onnx"]
        assert other.agreement == pytest.approx(agreement)
        assert (tuning.goal, tuning.data, tuning.count, tuning.reference) == (goal, "sixty images", 60, "resnet18-fp32.onnx")


@pytest.mark.usefixtures("briefly")
def test_the_largest_drop_is_the_one_that_was_asked_for_in_points(beside):
    data, paths, _, drop = beside
    for largest, reason in ((drop + 0.1, None), (drop - 0.1, f"loses {drop:.2f} points of top-1")):
        tuning = tune(paths, Goal(min_agreement=0, max_drop=largest, budget_s=0), threads=1, providers=["cpu"], data=data)
        (other,) = [c for c in (*(each.judged for each in tuning.ranked), *tuning.refused) if c.subject.name == "astray.onnx"]
        assert other.refused == reason
        assert next(c.judged for c in tuning.ranked if c.judged.subject.name != "astray.onnx").top1 == 0.75


@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(("objective", "images"), [("latency", 1), ("throughput", 64)])
def test_calls_have_one_image_for_latency_and_64_for_throughput(exports, monkeypatch, objective, images):
    seen, run = [], Session.logits
    monkeypatch.setattr(Session, "logits", lambda session, pixels: seen.append(pixels) or run(session, pixels))
    monkeypatch.setattr(ALL["cpu"], "micro_batches", (32,))
    tuning = tune([exports["fp32"].path], Goal(objective=objective, budget_s=0), threads=1, providers=["cpu"])
    assert {len(pixels) for pixels in seen[2:]} == {images}
    np.testing.assert_array_equal(seen[-1], synthetic_images(SIZE, 256)[:images])
    best = tuning.ranked[0]
    assert (tuning.count, best.images_per_call, tuning.profile.images_per_call) == (256, images, images)
    assert best.images_per_s == pytest.approx(1000 * images / np.median(best.calls_ms))


def test_answers_are_compared_once_for_each_file_and_arithmetic(exports, monkeypatch):
    """Threads, streams and batches do not change them; reduced arithmetic does."""
    fp32 = OnnxSubject.of(exports["fp32"].path, Target())
    asked = []

    def answer(subject, images):
        asked.append(subject.target)
        exact = np.float32([[1, 0], [0, 1]])
        return exact if subject.target.exact or subject.target.provider == "cpu" else np.float32([[1, 0], [1, 0]])

    monkeypatch.setattr("benchmarks.tuning.judging.collect_answers", answer)
    targets = [Target(provider="cuda", exact=exact, micro_batch=batch) for exact in (True, False) for batch in (32, 128)]
    judged = judge([replace(fp32, target=target) for target in targets], fp32, Goal(), synthetic_images(SIZE, 2), None, silent)
    assert [candidate.subject.target for candidate in judged] == targets
    assert [candidate.agreement for candidate in judged] == [1, 1, 0.5, 0.5]
    assert [candidate.refused for candidate in judged] == [None, None, *2 * ["agrees on 50.00% of the images only"]]
    assert len(asked) == 3


def test_the_most_threads_are_those_that_were_asked_for(exports, monkeypatch):
    monkeypatch.setattr("benchmarks.tuning.result.race", lambda judged, *rest: judged)
    monkeypatch.setattr("benchmarks.tuning.result.generate_images", lambda size: synthetic_images(size, 2))
    for threads, expected in (
        (1, [1]),
        (3, [1, 2, 3]),
        (None, [t.threads for t in list_targets("cpu", "fp32", "latency", available_cores())]),
    ):
        tuning = tune([exports["fp32"].path], Goal(), threads=threads, providers=["cpu"], data=None)
        assert [candidate.subject.target.threads for candidate in tuning.ranked] == expected
        assert tuning.unavailable == {}


def test_a_drop_needs_data(exports):
    with pytest.raises(ValueError, match="max_drop needs data"):
        tune([exports["fp32"].path], Goal(max_drop=1.0))


class Timed:
    """A way whose calls take as long as it was told."""

    def __init__(self, milliseconds):
        self.milliseconds = milliseconds


def test_rounds_double_in_length_until_three_are_left_which_are_timed_anew(monkeypatch):
    slices = []

    def time_one(candidate, batch, seconds):
        slices.append(seconds)
        return replace(candidate, calls_ms=(*candidate.calls_ms, candidate.judged.subject.milliseconds))

    monkeypatch.setattr("benchmarks.tuning.racing._time", time_one)
    batch = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    candidates = [Judged(subject=Timed(10.0 * 2**i)) for i in range(12)]
    ranked = race(candidates, batch, Goal(budget_s=60), silent)
    assert slices == [0.25] * 12 + [0.5] * 6 + [2.5] * 12
    assert [len(c.calls_ms) for c in ranked] == [4] * 3 + [2] * 3 + [1] * 6
    slices.clear()
    close = [Judged(subject=Timed(10.0 + 0.04 * i)) for i in range(12)]
    assert len([c for c in race(close, batch, Goal(budget_s=60), silent) if len(c.calls_ms) == 4]) == 12, "within 5 % of the fastest"
    assert slices == [0.25] * 12 + [2.5] * 48
