import numpy as np
import onnx
import pytest
from onnx import TensorProto

from exporters.parts import Parts, find_parts
from exporters.probes import Probe
from exporters.proof import compare_answers, find_hardest

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


def test_a_channel_that_hardly_speaks_counts_as_a_fifth_of_the_others():
    original = normal(8) * np.where(np.arange(8) == 5, 1e-6, 1).astype(np.float32)
    noise = np.float32(0.005) * normal(8, seed=1)
    assert prove(original, original + noise).sqnr_db == pytest.approx(20 * np.log10(0.2 / 0.005), abs=3)


def test_parts_that_were_joined_have_scales_of_their_own():
    original = normal(5, 40) * np.array([[500], [500], [500], [500], [0.1]], np.float32)
    answers = original + normal(5, 40, seed=1) * np.array([[1], [1], [1], [1], [0.1]], np.float32)
    assert prove(original, answers).sqnr_db > 40
    proof = prove(original, answers, parts={"y": Parts({1: (4,)})})
    assert proof.sqnr_db == pytest.approx(0, abs=1)
    assert proof.worst.unit == "unit 4 of axis 1"


def test_probabilities_have_one_scale(graphs):
    logits = 4 * normal(100)
    original = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    original[:, 7] = 1e-5
    answers = original + 5e-4 * (np.arange(100) == 7)
    assert prove(original, answers).sqnr_db < 25
    assert prove(original, answers, parts={"y": Parts(are_probabilities=True)}).sqnr_db > 30
    nodes = [
        *graphs.trunk(),
        *graphs.pool("features", "flat"),
        graphs.node("Softmax", ["flat"], ["p"]),
        graphs.node("Identity", ["p"], ["y"]),
    ]
    outputs = {name: (TensorProto.FLOAT, ["N", 32]) for name in ("y", "flat")}
    found = find_parts(graphs.model(nodes, graphs.TRUNK, outputs=outputs), 24, 24)
    assert {name: parts.are_probabilities for name, parts in found.items()} == {"y": True, "flat": False}


def test_parts_are_found_behind_what_moves_values(graphs):
    """A detector's head: boxes and scores of two scales, (N, 4, ...) and (N, 2, ...), become (N, 144 + 36, 6)."""
    nodes = [
        graphs.node("Concat", ["boxes", "scores"], ["large"], axis=1),
        graphs.node("Concat", ["small_boxes", "small_scores"], ["small"], axis=1),
        *(graphs.node("Reshape", [name, "rows"], [f"{name}_rows"]) for name in ("large", "small")),
        *(graphs.node("Transpose", [f"{name}_rows"], [f"{name}_turned"], perm=[0, 2, 1]) for name in ("large", "small")),
        graphs.node("Concat", ["large_turned", "small_turned"], ["joined"], axis=-2),
        graphs.node("Sigmoid", ["joined"], ["y"]),
    ]
    inputs = {
        f"{size}{name}": (TensorProto.FLOAT, [1, channels, side, side])
        for size, side in (("", 12), ("small_", 6))
        for name, channels in (("boxes", 4), ("scores", 2))
    }
    network = graphs.model(
        nodes, [graphs.tensor("rows", [1, 6, -1], np.int64)], inputs=inputs, outputs={"y": (TensorProto.FLOAT, [1, 180, 6])}
    )
    (parts,) = find_parts(onnx.shape_inference.infer_shapes(network, data_prop=True), 12, 12).values()
    assert parts.boundaries == {1: (144,), 2: (4,)}


def test_the_worst_kind_of_images_counts():
    calls = [({"y": normal(5)[:1]},), ({"y": normal(5)[1:2]},)]
    answers = (calls[0], ({"y": 2 * calls[1][0]["y"]},))
    probes = [Probe(name=name, calls=PROBES[0].calls[:1]) for name in ("a", "b")]
    proof = compare_answers(tuple(calls), answers, probes)
    assert (proof.worst.images, proof.count, proof.measured_on) == ("b", 2, "a; b")
    assert proof.sqnr_db == pytest.approx(0)


def test_probabilities_that_say_nothing_do_not_count_beside_those_that_do():
    probability, speaking = {"y": Parts(are_probabilities=True)}, np.abs(normal(5)) / 5
    silent = np.full((COUNT, 5), 1e-6, np.float32)
    probes = [Probe(name=name, calls=PROBES[0].calls) for name in ("a", "b")]

    def proof(*pairs):
        original, answers = (
            tuple(tuple({"y": values[i : i + 1]} for i in range(COUNT)) for values in kinds) for kinds in zip(*pairs, strict=True)
        )
        return compare_answers(original, answers, probes[: len(pairs)], probability)

    assert proof((silent, 2 * silent)).sqnr_db == pytest.approx(0, abs=0.1)
    assert proof((silent, 2 * silent), (speaking, 1.01 * speaking)).sqnr_db == pytest.approx(40, abs=1)
    assert proof((silent, silent + np.float32(0.5)), (speaking, speaking)).sqnr_db < -100


def test_an_output_without_a_batch_has_units_too():
    original = np.arange(1.0, 11.0)
    answers = original * np.where(np.arange(10) == 3, 2, 1)
    calls = [tuple({"y": values} for _ in range(COUNT)) for values in (original, answers)]
    assert compare_answers((calls[0],), (calls[1],), PROBES).worst.unit == "unit 3 of axis 0"


def test_rows_and_columns_of_a_map_are_taken_in_bands(graphs):
    shapes = {"map": [1, 16, 12, 24], "last": [1, 12, 24, 16], "square": [1, 24, 24, 24], "boxes": [1, 24, 48]}
    nodes = [graphs.node("Relu", [f"{name}_before"], [name]) for name in shapes]
    inputs = {f"{name}_before": (TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    outputs = {name: (TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    found = find_parts(graphs.model(nodes, [], inputs=inputs, outputs=outputs), 48, 96)
    assert {name: parts.image_axes for name, parts in found.items()} == {"map": (2, 3), "last": (1, 2), "square": (), "boxes": ()}

    original = normal(4, 64, 64) / 30
    original[:, :, :8] = normal(4, 8, 64)
    noise = np.zeros_like(original)
    noise[:, :, 40] = original[:, :, 40]
    assert prove(original, original + noise).sqnr_db < 1
    proof = prove(original, original + noise, parts={"y": Parts(image_axes=(2, 3))})
    assert proof.worst.unit == "band 5 of axis 2"
    assert proof.sqnr_db == pytest.approx(10 * np.log10(8), abs=0.5)


def test_units_that_are_silent_in_the_original_count_as_a_fifth_of_those_that_speak():
    original = normal(10)
    original[:, :6] = 0
    answers = original.copy()
    answers[:, :6] = 0.002 * normal(6, seed=1)
    assert prove(original, answers).sqnr_db == pytest.approx(40, abs=3)


def test_what_float32_cannot_tell_from_zero_is_no_error():
    original = 1e-9 * normal(10)
    original[:, 0] = normal()
    answers = original + 1e-8 * normal(10, seed=1)
    assert prove(original, answers).sqnr_db > 35


def test_the_calls_that_an_output_is_furthest_off_on_come_first():
    probes = tuple(
        Probe(name=name, calls=tuple(np.full((1, 1), 10 * place + i, np.float32) for i in range(6))) for place, name in enumerate("ab")
    )
    right = tuple(tuple({"y": np.ones((1, 5), np.float32), "z": np.zeros(1, np.float32)} for _ in probe.calls) for probe in probes)
    errors = ((9, 9, 9, 9, 9, 9), (0.5, 3, np.nan, 0, 7, 1))
    wrong = tuple(
        tuple({"y": call["y"] + np.float32(error), "z": call["z"]} for call, error in zip(calls, row, strict=True))
        for calls, row in zip(right, errors, strict=True)
    )
    proof = compare_answers(right, wrong, probes)
    found = find_hardest(right, wrong, probes, proof.worst)
    assert [(probe.name, [float(call.item()) for call in probe.calls]) for probe in found] == [("b", [i]) for i in (12, 14, 11, 15)]
