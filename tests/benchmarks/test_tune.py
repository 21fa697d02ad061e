import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

from benchmarks.subjects import OnnxSubject
from benchmarks.tune import FINALISTS, Candidate, Goal, _rank, list_targets, tune
from edgeresnet.datasets import read_split
from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.profile import Profile
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec
from edgeresnet.target import Target
from exporters.metadata import stamp


@pytest.fixture(scope="module")
def tuning(exports):
    return tune([exports["int8"].path, exports["fp32"].path], Goal(min_agreement=0.9, budget_s=0), threads=2)


def test_every_way_is_timed_and_judged_by_the_fp32_model(tuning):
    assert tuning.reference == "resnet18-fp32.onnx"
    assert sorted((c.subject.name, c.subject.target.threads) for c in tuning.ranked) == [
        (f"resnet18-{precision}.onnx", threads) for precision in ("fp32", "int8") for threads in (1, 2)
    ]
    assert all(c.calls_ms for c in tuning.ranked)
    assert {c.agreement for c in tuning.ranked if c.subject.spec.precision == "fp32"} == {1.0}
    assert set(tuning.unavailable) == {"cuda", "openvino"}
    finalists = [c.p50_ms for c in tuning.ranked[:FINALISTS]]
    assert finalists == sorted(finalists)


def test_the_winner_becomes_a_profile_that_runs(tuning, tmp_path):
    path = tmp_path / "deploy.json"
    tuning.profile.write(path)
    profile = Profile.read(path)
    best = tuning.ranked[0]
    assert (profile.target, profile.p50_ms) == (best.subject.target, best.p50_ms)
    assert Session(profile.model, profile.target).target.threads == best.subject.target.threads


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

    candidates = [Candidate(Sleeper(0.002 * 2**i), 1) for i in (3, 7, 0, 5, 1, 6, 2, 4)]
    monkeypatch.setattr("benchmarks.tune.FINAL_SLICE_S", 0.05)
    ranked = _rank(list(candidates), np.zeros((1, 32, 32, 3), np.uint8), Goal(budget_s=60), lambda steps, description, total=None: steps)
    assert [c.subject.seconds for c in ranked] == [0.002 * 2**i for i in range(8)]
    everything = _rank(list(candidates), np.zeros((1, 32, 32, 3), np.uint8), Goal(exhaustive=True), lambda steps, d, total=None: steps)
    assert [c.subject.seconds for c in everything] == [0.002 * 2**i for i in range(8)]
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
    assert [c.subject.name for c in tuning.ranked] == ["resnet18-fp32.onnx"]
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
    assert {(t.micro_batch, t.exact) for t in list_targets("cuda", "fp16", "throughput", 2)} == {
        (batch, exact) for batch in (32, 128, 256) for exact in (True, False)
    }


def test_a_candidate_reports_images_per_second(exports):
    candidate = Candidate(OnnxSubject.of(exports["fp32"].path, Target()), 64, calls_ms=[100.0, 400.0, 200.0])
    assert (candidate.p50_ms, candidate.images_per_s) == (200.0, 320.0)
