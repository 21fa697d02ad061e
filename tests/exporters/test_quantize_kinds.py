"""What others' files have in them: each kind is quantized and right in every output, or refused for the reason that is true.

Speed is not what these networks are for, they are too small for it: the race is not run, and no layer is left for its time.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeresnet.errors import DataError, ExportError
from edgeresnet.race import RaceResult
from exporters import attempt, quantize
from exporters.quantize import quantize_file

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


@pytest.fixture
def quantized(tmp_path, graphs, monkeypatch):
    """Quantizes a model, and runs both files by plain ONNX Runtime on images that the proof did not see."""
    monkeypatch.setattr(attempt, "race", lambda *calls, **_: RaceResult(first_ms=2, second_ms=1, speedup=2, lower=2, upper=2))
    monkeypatch.setattr(attempt, "PAYING_SHARES", ())

    def run(network, *, tolerance=0.05, images=None, skip=(), folder=None, **options):
        source, target = tmp_path / "network.onnx", tmp_path / "int8.onnx"
        onnx.save(network, source)
        result = quantize_file(source, target, form="dynamic", images=folder, **options)
        feeds = images or {"x": graphs.pictures(network.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 2, 3, 24, 24)}
        expected, found = graphs.run(source.read_bytes(), **feeds), graphs.run(target.read_bytes(), **feeds)
        assert list(expected) == list(found)
        for name in set(expected) - set(skip):
            assert expected[name].shape == found[name].shape
            assert np.linalg.norm(expected[name] - found[name]) <= tolerance * np.linalg.norm(expected[name])
        products = sum(node.op_type == "MatMulInteger" for node in onnx.load(target).graph.node)
        assert products == sum(layer.quantized for layer in result.layers) > 0
        return result

    return run


def shouting(graphs):
    """Weights under which one channel is 3,000 times as large as the others, and weights of a layer that does not read it."""
    uneven = numpy_helper.to_array(graphs.weights("uneven", 32, 32, 3, 3)).copy()
    uneven[0] *= 3000
    reader = numpy_helper.to_array(graphs.weights("reader", 32, 32, 3, 3)).copy()
    reader[:, 0] = 0
    return [graphs.tensor("uneven", uneven), graphs.tensor("reader", reader)]


def test_every_output_counts_and_the_layers_that_spoil_one_stay_in_fp32(quantized, graphs):
    """The second head reads channels that share their 8-bit scale with the one that shouts."""
    nodes = [*graphs.trunk(), *graphs.pool("features", "y")]
    nodes += [graphs.conv("features", "uneven", "hidden"), graphs.conv("hidden", "reader", "map"), *graphs.pool("map", "mask")]
    outputs = {name: (FLOAT, ["N", 32]) for name in ("y", "mask")}
    network = graphs.model(nodes, [*graphs.TRUNK, *shouting(graphs)], outputs=outputs)
    result = quantized(network, least_db=20)
    reasons = {layer.name: layer.reason for layer in result.layers if not layer.quantized}
    assert reasons["map"].startswith("costs too much: ")
    assert {output.output for output in result.proof.outputs} == {"y", "mask"}
    assert min(output.sqnr_db for output in result.proof.outputs) == result.proof.sqnr_db >= 20


def test_small_values_beside_large_ones_in_one_output_count(quantized, graphs, tmp_path):
    """Scores beside coordinates, joined by a Concat: as a whole the output is right either way."""
    nodes = [*graphs.trunk(), graphs.node("Mul", ["features", "pixels"], ["boxes"])]
    nodes += [graphs.conv("features", "uneven", "hidden"), graphs.conv("hidden", "reader", "scores")]
    nodes += [graphs.node("Concat", ["boxes", "scores"], ["y"], axis=1)]
    uneven, reader = shouting(graphs)
    reader = graphs.tensor("reader", numpy_helper.to_array(reader)[:8])
    tensors = [*graphs.TRUNK, uneven, reader, graphs.tensor("pixels", [6000.0])]
    network = graphs.model(nodes, tensors, outputs={"y": (FLOAT, ["N", 40, 24, 24])})
    result = quantized(network, least_db=20)
    assert {layer.name for layer in result.layers if layer.reason.startswith("costs too much")} == {"scores"}
    x = graphs.pictures(1, 3, 24, 24)
    expected, found = (graphs.run((tmp_path / name).read_bytes(), x=x)["y"][:, 32:] for name in ("network.onnx", "int8.onnx"))
    assert np.linalg.norm(expected - found) < 0.1 * np.linalg.norm(expected)


def test_nothing_is_written_where_no_layer_alone_is_within_the_budget(quantized, graphs, tmp_path):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    with pytest.raises(
        ExportError, match=r"dB in unit .* on generated .*, at least 90 dB .*no layer alone.*nothing was written; fix: .*--images"
    ):
        quantized(network, least_db=90)
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


def test_a_result_that_is_not_smaller_is_not_written(quantized, graphs, tmp_path):
    """Few weights: the nodes that a quantized layer is made of take more of the file."""
    nodes = [graphs.conv("x", "first", "features"), *(graphs.conv("features", f"k{i}", f"v{i}", pads=[0] * 4) for i in range(4))]
    nodes += [graphs.node("Concat", [f"v{i}" for i in range(4)], ["all"], axis=1), *graphs.pool("all", "y")]
    tensors = [graphs.weights("first", 16, 3, 3, 3), *(graphs.weights(f"k{i}", 1, 16, 1, 1) for i in range(4))]
    network = graphs.model(nodes, tensors, outputs={"y": (FLOAT, ["N", 4])})
    with pytest.raises(ExportError, match=r"the result would be larger: \d+,\d+ bytes, the original has \d+,\d+; nothing was written"):
        quantized(network, least_db=0)
    assert not (tmp_path / "int8.onnx").exists()


def test_values_that_become_nan_are_never_written(quantized, graphs):
    """The features are lost beside a constant channel, and their norm is 0."""
    first = numpy_helper.to_array(graphs.weights("first", 32, 3, 3, 3)) * np.float32(1e-3)
    first[0] = 0
    second = numpy_helper.to_array(graphs.weights("second", 32, 32, 3, 3)).copy()
    second[:, 0] = 0
    nodes = [
        graphs.node("Conv", ["x", "first", "bias"], ["a"], pads=[1] * 4),
        graphs.conv("a", "second", "b"),
        *graphs.pool("b", "flat"),
        graphs.node("ReduceL2", ["flat", "axis"], ["norm"]),
        graphs.node("Div", ["flat", "norm"], ["y"]),
    ]
    tensors = [graphs.tensor("first", first), graphs.tensor("second", second), graphs.tensor("bias", [1e4] + [0] * 31)]
    network = graphs.model(nodes, [*tensors, graphs.tensor("axis", [1], np.int64)], batch=1)
    with pytest.raises(ExportError, match="the output y is NaN or infinite where the original is not"):
        quantized(network)


def test_class_ids_are_compared_as_names(quantized, graphs):
    nodes = [*graphs.trunk(), *graphs.pool("features", "y"), graphs.node("ArgMax", ["y"], ["best"], axis=1, keepdims=0)]
    network = graphs.model(nodes, graphs.TRUNK, outputs={"y": (FLOAT, ["N", 32]), "best": (INT64, ["N"])})
    result = quantized(network, skip=["best"], least_db=10)
    assert [output.output for output in result.proof.outputs] == ["y", "best"]


@pytest.mark.parametrize("batch", [1, "N"])
def test_results_of_varying_number_are_proven_by_what_decides_them(quantized, graphs, batch, tmp_path):
    nodes = [
        *graphs.trunk(),
        *(graphs.conv("features", f"w_{name}", f"{name}_map") for name in ("boxes", "scores")),
        graphs.node("Reshape", ["boxes_map", "four"], ["turned"]),
        graphs.node("Transpose", ["turned"], ["boxes"], perm=[0, 2, 1]),
        graphs.node("Reshape", ["scores_map", "one"], ["scores"]),
        graphs.node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["y"]),
    ]
    tensors = [
        *graphs.TRUNK,
        *(graphs.weights(f"w_{name}", count, 32, 3, 3) for name, count in (("boxes", 4), ("scores", 1))),
        *(graphs.tensor(name, values, np.int64) for name, values in (("four", [0, 4, -1]), ("one", [0, 1, -1]), ("most", [20]))),
        *(graphs.tensor(name, [value]) for name, value in (("overlap", 0.5), ("least", 0.1))),
    ]
    network = graphs.model(nodes, tensors, batch=batch, outputs={"y": (INT64, ["n", 3])})
    result = quantized(network, skip=["y"], images={"x": graphs.pictures(1, 3, 24, 24)})
    assert [output.output for output in result.proof.outputs] == [
        f"y ({name}, which NonMaxSuppression reads)" for name in ("boxes", "scores")
    ]
    assert result.proof.sqnr_db > 20


def test_a_layer_behind_what_decides_a_size_stays_in_fp32(quantized, graphs):
    """Rows that are not zero, in a linear layer: there is one more or one less, and no row to compare it with."""
    nodes = [
        *graphs.trunk(),
        *graphs.pool("features", "flat"),
        graphs.node("NonZero", ["flat"], ["places"]),
        graphs.node("Cast", ["places"], ["numbers"], to=FLOAT),
        graphs.node("Transpose", ["numbers"], ["rows"], perm=[1, 0]),
        graphs.node("MatMul", ["rows", "matrix"], ["y"]),
    ]
    network = graphs.model(nodes, [*graphs.TRUNK, graphs.weights("matrix", 2, 9000)], outputs={"y": (FLOAT, ["n", 9000])})
    result = quantized(network, skip=["y"], images={"x": graphs.pictures(1, 3, 24, 24)})
    (reason,) = (layer.reason for layer in result.layers if layer.name == "y")
    assert reason == "behind what decides the size of an output: cannot be compared"


def a_loser_of_its_race(monkeypatch, *, races, gains):
    """Times that a machine could measure: the ends of each race, and of each network with one layer more in FP32."""
    ends = iter(races)

    def race(*_, **__):
        lower = next(ends)
        return RaceResult(first_ms=1, second_ms=1, speedup=lower, lower=lower, upper=lower)

    monkeypatch.setattr(attempt, "race", race)
    answers = iter(gains)
    monkeypatch.setattr(attempt, "estimate_speedup", lambda *_, **__: next(answers))


def row_of_layers(graphs, count):
    nodes = [
        graphs.conv("x", "w0", "v0"),
        *(graphs.conv(f"v{i}", f"k{i}", f"v{i + 1}") for i in range(count)),
        *graphs.pool(f"v{count}", "y"),
    ]
    return graphs.model(nodes, [graphs.TRUNK[0], *(graphs.weights(f"k{i}", 32, 32, 3, 3) for i in range(count))])


@pytest.mark.parametrize(("lower", "left"), [(1.02, False), (1.04, True)])
def test_layers_that_take_longer_in_int8_are_left_where_the_network_is_faster_without_them_for_certain(
    quantized, graphs, monkeypatch, lower, left
):
    """It is 1.2 times as fast without the first in the middle of what was timed, and at least so many times as fast for certain."""
    monkeypatch.setattr(attempt, "PAYING_SHARES", (1.0,))
    monkeypatch.setattr(quantize, "time_fp32_layers", lambda *_: {"v1": 1e-6, "v2": 1e6})
    results = [RaceResult(first_ms=1, second_ms=1, speedup=1.2, lower=bound, upper=1.4) for bound in (lower, 1.1)]
    monkeypatch.setattr(attempt, "race", lambda *_, **__: results.pop(0))
    choices = {layer.name: layer.reason.partition(":")[0] for layer in quantized(row_of_layers(graphs, 2)).layers}
    assert choices == {"v0": "3 input channels", "v1": "does not pay" if left else "", "v2": ""}
    assert not results


def test_a_small_network_that_loses_its_race_leaves_the_layer_that_costs_most_time(quantized, graphs, monkeypatch):
    """Three layers: without the second it is fastest, and then without the last."""
    a_loser_of_its_race(monkeypatch, races=[0.97, 0.99, 1.02], gains=[0.9, 1.2, 1.1, 1.0, 1.05])
    reasons = {layer.name: layer.reason for layer in quantized(row_of_layers(graphs, 3)).layers}
    assert reasons == {
        "v0": "3 input channels: rows too short",
        "v1": "",
        "v2": "does not pay: the network takes 1.20 times as long with it",
        "v3": "does not pay: the network takes 1.05 times as long with it",
    }


@pytest.mark.parametrize(
    ("count", "gains"), [(2, [1.0, 0.9]), (attempt.FEW_LAYERS + 1, []), (1, [])], ids=["no layer costs time", "many layers", "one layer"]
)
def test_a_network_that_loses_its_race_whatever_is_left_is_refused(quantized, graphs, monkeypatch, count, gains):
    a_loser_of_its_race(monkeypatch, races=[0.97], gains=gains)
    with pytest.raises(ExportError, match=rf"INT8 is slower here.* with {count} layers in it"):
        quantized(row_of_layers(graphs, count))


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        (0.97, 1.02, r"may be slower here \(0.97 to 1.02x\).*; nothing was written$"),
        (1.002, 1.02, r"is hardly faster here \(1.00 to 1.02x\).*; nothing was written$"),
        (0.7, 0.99, r"is slower here \(0.70 to 0.99x\).*; nothing was written$"),
        (0.7, 1.9, r"may be slower here \(0.70 to 1.90x\).*; nothing was written; fix: try again when no other program needs the cores$"),
    ],
)
def test_a_race_that_is_not_won_says_whether_it_was_lost(quantized, graphs, monkeypatch, lower, upper, said):
    result = RaceResult(first_ms=1, second_ms=1, speedup=(lower + upper) / 2, lower=lower, upper=upper)
    monkeypatch.setattr(attempt, "race", lambda *_, **__: result)
    with pytest.raises(ExportError, match=said):
        quantized(row_of_layers(graphs, 1))


def test_a_layer_without_which_the_file_would_be_larger_is_not_left(quantized, graphs, monkeypatch):
    """All that is smaller about the file is in the second layer: only leaving the first is tried."""
    nodes = [graphs.conv("x", "w0", "a"), graphs.conv("a", "few", "b", pads=[0] * 4), graphs.conv("b", "many", "c"), *graphs.pool("c", "y")]
    tensors = [graphs.weights("w0", 16, 3, 3, 3), graphs.weights("few", 16, 16, 1, 1), graphs.weights("many", 64, 16, 3, 3)]
    network = graphs.model(nodes, tensors, outputs={"y": (FLOAT, ["N", 64])})
    a_loser_of_its_race(monkeypatch, races=[0.97, 1.02], gains=[1.1])
    reasons = {layer.name: layer.reason for layer in quantized(network, least_db=0).layers}
    assert (reasons["b"], reasons["c"]) == ("does not pay: the network takes 1.10 times as long with it", "")


def test_one_matrix_of_two_layers_is_quantized_for_both(quantized, graphs):
    nodes = [*graphs.trunk(), graphs.conv("features", "shared", "a"), graphs.node("Relu", ["a"], ["b"]), graphs.conv("b", "shared", "c")]
    network = graphs.model([*nodes, *graphs.pool("c", "y")], [*graphs.TRUNK, graphs.weights("shared", 32, 32, 3, 3)])
    assert [layer.quantized for layer in quantized(network).layers] == [False, True, True, True, True]


@pytest.mark.parametrize(("pad", "strides"), [("SAME_UPPER", [2, 2]), ("SAME_LOWER", [2, 2]), ("SAME_UPPER", [1, 1]), ("VALID", [1, 1])])
def test_padding_by_name_is_as_the_operator_defines_it(quantized, graphs, pad, strides):
    last = graphs.node("Conv", ["features", "w3"], ["y"], auto_pad=pad, strides=strides)
    network = graphs.model([*graphs.trunk(), last], [*graphs.TRUNK, graphs.weights("w3", 16, 32, 3, 3)], outputs={"y": (FLOAT, None)})
    assert sum(layer.quantized for layer in quantized(network).layers) == 3


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_branch_reads_the_values_around_it(quantized, graphs, batch):
    """The condition is computed, so that no optimizer can take the branch."""
    branches = {
        name: helper.make_graph(
            [graphs.node(operator, ["features_sum"], [f"{name}_y"])], name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)]
        )
        for name, operator in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        *graphs.trunk()[:-1],
        graphs.node("ReduceMax", ["x"], ["largest"], keepdims=0),
        graphs.node("Greater", ["largest", "zero"], ["condition"]),
        graphs.node("If", ["condition"], ["chosen"], **branches),
        *graphs.pool("chosen", "y"),
    ]
    quantized(graphs.model(nodes, [*graphs.TRUNK, graphs.tensor("zero", 0.0)], batch=batch), images={"x": graphs.pictures(1, 3, 24, 24)})


def test_names_that_this_project_uses_may_be_taken(quantized, graphs):
    nodes = [*graphs.trunk("windows"), graphs.node("Identity", ["features"], ["constant"]), *graphs.pool("constant", "y")]
    network = graphs.model(nodes, graphs.TRUNK, inputs={"windows": (FLOAT, ["N", 3, 24, 24])})
    quantized(network, images={"windows": graphs.pictures(1, 3, 24, 24)})


def test_statistics_of_the_images_at_hand_are_not_folded(quantized, graphs):
    norm = graphs.node("BatchNormalization", ["features", "gain", "shift", "mean", "var"], ["n", "m", "v"], training_mode=1)
    tensors = [
        *graphs.TRUNK,
        *(graphs.tensor(name, np.full(32, value)) for name, value in (("gain", 1), ("shift", 0), ("mean", 5), ("var", 9))),
    ]
    result = quantized(graphs.model([*graphs.trunk(), norm, *graphs.pool("n", "y")], tensors))
    assert sum(layer.quantized for layer in result.layers) == 2


@pytest.mark.parametrize(("axis", "shape"), [(0, [1, 64]), (2, [64, 1])])
def test_a_pixel_that_is_flattened_otherwise_keeps_its_shape(quantized, graphs, axis, shape):
    nodes = [
        *graphs.trunk(),
        graphs.node("GlobalAveragePool", ["features"], ["pixel"]),
        graphs.node("Flatten", ["pixel"], ["y"], axis=axis),
    ]
    quantized(graphs.model(nodes, graphs.TRUNK, outputs={"y": (FLOAT, ["a", "b"])}), images={"x": graphs.pictures(2, 3, 24, 24)})
    assert graphs.run(graphs.model(nodes, graphs.TRUNK, outputs={"y": (FLOAT, ["a", "b"])}), x=graphs.pictures(2, 3, 24, 24))[
        "y"
    ].shape == tuple(shape)


def test_half_precision_becomes_int8(quantized, graphs):
    tensors = [graphs.weights(tensor.name, *tensor.dims, dtype=np.float16) for tensor in graphs.TRUNK]
    inputs, outputs = {"x": (HALF, ["N", 3, 8, 8])}, {"y": (HALF, ["N", 32])}
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], tensors, inputs=inputs, outputs=outputs)
    result = quantized(network, images={"x": graphs.pictures(1, 3, 8, 8, dtype=np.float16)})
    assert result.size_bytes < result.original_size_bytes


def test_real_images_and_what_floats_mean_can_be_given(quantized, graphs, image_folder):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    assert quantized(network, pixel_range="1").proof.measured_on == "generated shapes (0 to 1); generated text (0 to 1)"
    result = quantized(network, folder=image_folder / "train", pixel_range="normalized")
    assert result.proof.measured_on == f"48 images of {image_folder / 'train'} (normalized)"
    with pytest.raises(DataError, match="no images in it"):
        quantized(network, folder=image_folder.parent / "nothing")


def test_reasons_are_true(quantized, graphs):
    nodes = [
        *graphs.trunk(),
        graphs.node("ConvTranspose", ["features", "up"], ["large"], dilations=[2, 2]),
        graphs.node("GlobalAveragePool", ["features"], ["scale"]),
        graphs.node("Reshape", ["features", "lines"], ["line"]),
        graphs.node("Conv", ["line", "along"], ["filtered"], pads=[1, 1], group=4),
        graphs.node("MatMul", ["filtered", "turned"], ["products"]),
        graphs.node("Transpose", ["filtered"], ["turned"], perm=[0, 2, 1]),
        *graphs.pool("large", "y"),
    ]
    nodes[-4], nodes[-3] = nodes[-3], nodes[-4]
    tensors = [
        *graphs.TRUNK,
        graphs.weights("up", 32, 32, 2, 2),
        graphs.weights("along", 32, 8, 3),
        graphs.tensor("lines", [0, 32, 576], np.int64),
    ]
    outputs = {"y": (FLOAT, ["N", 32]), "products": (FLOAT, ["N", 32, 32])}
    reasons = {layer.name: layer.reason for layer in quantized(graphs.model(nodes, tensors, outputs=outputs)).layers}
    assert reasons["large"] == "transposed and dilated: not one product"
    assert reasons["filtered"] == "grouped: not one product"
    assert reasons["products"] == "both factors are computed as the model runs"


def test_layers_that_share_their_weights_stay_in_fp32_together(quantized, graphs):
    """Otherwise the file keeps their matrix twice: an unrolled recurrent network became larger than its original."""
    nodes = [*graphs.trunk(), graphs.conv("features", "reader", "unharmed"), *graphs.pool("unharmed", "y")]
    nodes += [graphs.conv("features", "uneven", "hidden"), graphs.conv("hidden", "reader", "map"), *graphs.pool("map", "mask")]
    outputs = {name: (FLOAT, ["N", 32]) for name in ("y", "mask")}
    result = quantized(graphs.model(nodes, [*graphs.TRUNK, *shouting(graphs)], outputs=outputs), least_db=20)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert {name for name, reason in reasons.items() if reason.startswith("costs too much")} == {"map", "unharmed"}
    assert reasons["hidden"] == ""


def test_tensors_of_a_sequence_are_outputs_too(quantized, graphs):
    nodes = [*graphs.trunk(), graphs.node("SequenceConstruct", ["features", "x"], ["y"])]
    network = graphs.model(nodes, graphs.TRUNK, outputs={"y": (FLOAT, None)})
    network.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", FLOAT, None))
    result = quantized(network, skip=["y"])
    assert {output.output: output.sqnr_db > 20 for output in result.proof.outputs} == {"y [0]": True, "y [1]": True}


def test_the_names_of_what_measures_layers_may_be_taken(quantized, graphs):
    nodes = [*graphs.trunk(), graphs.node("Relu", ["features"], ["edgeresnet"]), *graphs.pool("edgeresnet", "edgeresnet_y")]
    result = quantized(graphs.model(nodes, graphs.TRUNK, outputs={"edgeresnet_y": (FLOAT, ["N", 32])}))
    assert all(layer.sqnr_db > 20 for layer in result.layers if layer.quantized)


def test_what_floats_mean_is_no_question_for_uint8(quantized, graphs):
    nodes = [graphs.node("Cast", ["x"], ["floats"], to=FLOAT), *graphs.trunk("floats"), *graphs.pool("features", "y")]
    network = graphs.model(nodes, graphs.TRUNK, inputs={"x": (TensorProto.UINT8, [1, 3, 24, 24])})
    with pytest.raises(ExportError, match="--pixel-range says what floats mean, and the model takes pixels as uint8"):
        quantized(network, pixel_range="255")


def test_shapes_that_onnx_does_not_infer_are_those_that_run(quantized, graphs):
    """Behind an operator of ONNX Runtime alone, with an open batch and without."""
    nodes = [*graphs.trunk(), graphs.node("FastGelu", ["features"], ["bent"], domain="com.microsoft")]
    nodes += [graphs.conv("bent", "w2", "map"), *graphs.pool("map", "y")]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    for batch in (1, "N"):
        result = quantized(graphs.model(nodes, graphs.TRUNK, batch=batch, opset_imports=imports, outputs={"y": (FLOAT, None)}))
        assert [layer.reason for layer in result.layers] == ["3 input channels: rows too short", "", "", ""]
