import numpy as np
import pytest
from onnx import TensorProto

from exporters.probes import Probe
from exporters.proof import compare_answers, find_probabilities

COUNT = 16
PROBES = (Probe(name="noise, normalized", calls=tuple(np.zeros((1, 3, 4, 4), np.float32) for _ in range(COUNT))),)


def prove(original, answers, **options):
    """From arrays (images, ...), each image a call."""
    calls = [tuple({"y": values[i : i + 1]} for i in range(COUNT)) for values in (original, answers)]
    return compare_answers((calls[0],), (calls[1],), PROBES, **options)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(COUNT, *shape)).astype(np.float32)


def test_every_channel_is_measured_on_its_own_scale_whichever_axis_it_is_on():
    scales = np.array([1000.0] * 4 + [1.0] * 6, np.float32)
    for shape, axis in (((10,), 1), ((10, 50), 1), ((50, 10), 2), ((6, 7, 10), 3)):
        scale = scales.reshape([-1 if i + 1 == axis else 1 for i in range(len(shape))])
        original = normal(*shape) * scale
        noise = 0.01 * normal(*shape, seed=1) * scale
        assert prove(original, original + noise).sqnr_db == pytest.approx(40, abs=6)
        # One small channel that is all wrong: 70 dB as a whole.
        wrong = original.copy()
        index = tuple(9 if i == axis else slice(None) for i in range(original.ndim))
        wrong[index] = normal(*shape, seed=2)[index]
        proof = prove(original, wrong)
        assert proof.worst.whole_db > 60
        assert proof.sqnr_db == pytest.approx(-3, abs=3)
        assert proof.worst.unit == f"unit 9 of axis {axis}"


def test_values_that_are_not_finite_must_be_the_same():
    original = normal(5)
    original[3, 2], original[4, 1] = np.inf, np.nan
    assert prove(original, original).sqnr_db == np.inf
    for value in (np.nan, np.inf, -np.inf):
        answers = original.copy()
        answers[0, 0] = value
        assert prove(original, answers).worst.problem == "is NaN or infinite where the original is not, or the other way round"
        assert prove(answers, original).sqnr_db == -np.inf
    assert prove(original, -original).sqnr_db == -np.inf


def test_names_of_classes_are_right_or_wrong():
    original = np.arange(COUNT).reshape(-1, 1)
    answers = original.copy()
    assert prove(original, answers).sqnr_db == np.inf
    answers[0] += 1000
    assert prove(original, answers).sqnr_db == pytest.approx(20 * np.log10(COUNT))
    amounts = np.full((COUNT, 40), 100, np.uint8)
    assert prove(amounts, amounts + np.uint8(1)).sqnr_db == pytest.approx(40)


def test_another_shape_is_a_problem():
    assert prove(normal(5), normal(6)).worst.problem == "has the shape (1, 6) where the original has (1, 5)"


def test_an_output_without_values_proves_nothing():
    empty = np.zeros((COUNT, 0), np.float32)
    assert prove(empty, empty).worst.problem == "has no values on these images, so that nothing can be said of it"
    nothing = np.full((COUNT, 3), np.nan, np.float32)
    assert prove(nothing, nothing).sqnr_db == -np.inf


def test_a_channel_that_never_changes_is_held_against_the_whole():
    original = np.maximum(normal(8), 0)
    original[:, 5] = 0
    assert prove(original, original + np.float32(0.005)).sqnr_db > 35


def test_probabilities_have_one_scale(graphs):
    logits = 4 * normal(100) - 8 * (np.arange(100) == 7)
    original = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = np.exp(logits + 0.02 * normal(100, seed=1))
    answers /= answers.sum(1, keepdims=True)
    answers[:, 7] += 1e-4
    assert prove(original, answers).sqnr_db < 25
    assert prove(original, answers, probabilities=frozenset({"y"})).sqnr_db > 30
    nodes = [
        *graphs.trunk(),
        *graphs.pool("features", "flat"),
        graphs.node("Softmax", ["flat"], ["p"]),
        graphs.node("Identity", ["p"], ["y"]),
    ]
    outputs = {name: (TensorProto.FLOAT, ["N", 32]) for name in ("y", "flat")}
    assert find_probabilities(graphs.model(nodes, graphs.TRUNK, outputs=outputs)) == {"y"}


def test_the_worst_kind_of_images_counts():
    calls = [({"y": normal(5)[:1]},), ({"y": normal(5)[1:2]},)]
    answers = (calls[0], ({"y": 2 * calls[1][0]["y"]},))
    probes = [Probe(name=name, calls=PROBES[0].calls[:1]) for name in ("a", "b")]
    proof = compare_answers(tuple(calls), answers, probes)
    assert (proof.worst.images, proof.count, proof.measured_on) == ("b", 2, "a; b")
    assert proof.sqnr_db == pytest.approx(0)
