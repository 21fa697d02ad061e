"""`quantize --static` on small graphs: which operators are left, what they answer, and what is refused."""

from collections import Counter

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeresnet.errors import ExportError
from edgeresnet.race import RaceResult
from edgeresnet.session import Session
from exporters import attempt, quantize
from exporters.quantize import quantize_file
from exporters.static.plan import make_plan

FLOAT = TensorProto.FLOAT


@pytest.fixture
def operators(optimized):
    """Counts what ONNX Runtime runs of a file on any CPU."""
    return lambda path: Counter(node.op_type for node in optimized(path, on_any_cpu=True).node)


@pytest.fixture
def quantized(tmp_path, graphs, operators, monkeypatch):
    """Quantizes a model, compares both files on other images, and tells the operators that ONNX Runtime runs; the race is not run."""
    monkeypatch.setattr(attempt, "race", lambda *calls, **_: RaceResult(first_ms=2, second_ms=1, speedup=2, lower=2, upper=2))
    monkeypatch.setattr(attempt, "PAYING_SHARES", ())

    def run(network, *, tolerance=0.05, images=None, **options):
        source, target = tmp_path / "network.onnx", tmp_path / "static.onnx"
        onnx.save(network, source)
        result = quantize_file(source, target, form="static", pixel_range="normalized", images=images, **options)
        x = graphs.pictures(1, 3, 24, 24)
        expected, found = graphs.run(source.read_bytes(), x=x), graphs.run(target.read_bytes(), x=x)
        assert list(expected) == list(found)
        for name in expected:
            assert expected[name].shape == found[name].shape
            assert np.linalg.norm(expected[name] - found[name]) <= tolerance * np.linalg.norm(expected[name])
        return result, operators(target)

    return run


def behind_trunk(graphs, nodes, tensors=(), channels=32, **model):
    """A network that goes on from the features, (N, 32, 24, 24), to ``tail``, which a last convolution reads."""
    last = [graphs.weights("last", 32, channels, 3, 3)]
    network = [*graphs.trunk(), *nodes, graphs.conv("tail", "last", "final"), *graphs.pool("final", "y")]
    return graphs.model(network, [*graphs.TRUNK, *last, *tensors], **model)


def node(operator, inputs, output="tail", **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


def integers(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


STATISTICS = ["gain", "offset", "mean", "variance"]
KINDS = {
    "depthwise": ([node("Conv", ["features", "deep"], group=32, pads=[1] * 4)], {"QLinearConv": 5}, 32),
    "grouped": ([node("Conv", ["features", "grouped"], group=4, pads=[1] * 4)], {"QLinearConv": 5}, 32),
    "multiplied": ([node("Conv", ["features", "multiplied"], group=32, pads=[1] * 4)], {"QLinearConv": 5}, 64),
    "relu6": (
        [node("Conv", ["features", "w1"], "wide", pads=[1] * 4), node("Clip", ["wide", "zero", "six"])],
        {"QLinearConv": 5, "Clip": 0},
        32,
    ),
    "clip elsewhere": (
        [node("Conv", ["features", "w1"], "wide", pads=[1] * 4), node("Clip", ["wide", "minus", "six"])],
        {"QLinearConv": 5, "Clip": 1},
        32,
    ),
    "residual": ([node("Conv", ["features", "w1"], "b", pads=[1] * 4), node("Add", ["features", "b"])], {"QLinearAdd": 1}, 32),
    "concat": ([node("Conv", ["features", "w1"], "b", pads=[1] * 4), node("Concat", ["features", "b"], axis=1)], {"QLinearConcat": 1}, 64),
    "maximum": ([node("MaxPool", ["features"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)], {"MaxPool": 1}, 32),
    "average": ([node("AveragePool", ["features"], kernel_shape=[2, 2], strides=[2, 2])], {"QLinearConv": 5, "QLinearAveragePool": 0}, 32),
    "norm": (
        [
            node("Conv", ["features", "w1"], "b", pads=[1] * 4),
            node("Concat", ["features", "b"], "both", axis=1),
            node("BatchNormalization", ["both", *STATISTICS], "n"),
            node("Relu", ["n"]),
        ],
        {"QLinearConv": 6, "BatchNormalization": 0, "QLinearConcat": 1},
        64,
    ),
    "nearest": ([node("Resize", ["features", "", "twice"], mode="nearest")], {"Resize": 1}, 32),
    "silu": ([node("Sigmoid", ["features"], "gate"), node("Mul", ["features", "gate"])], {"QLinearSigmoid": 1, "QLinearMul": 1}, 32),
    "hard swish": ([node("HardSwish", ["features_sum"])], {"QLinearAdd": 1, "QLinearMul": 1, "HardSwish": 0, "HardSigmoid": 0}, 32),
    "hard sigmoid": ([node("HardSigmoid", ["features_sum"], alpha=0.2, beta=0.4)], {"QLinearAdd": 1, "HardSigmoid": 0}, 32),
    "leaky": ([node("LeakyRelu", ["features_sum"], alpha=0.1)], {"QLinearLeakyRelu": 1}, 32),
    "squeeze and excite": (
        [
            node("ReduceMean", ["features", "sides"], "squeezed", keepdims=1),
            node("Conv", ["squeezed", "fewer"], "few"),
            node("Relu", ["few"], "some"),
            node("Conv", ["some", "more"], "many"),
            node("HardSigmoid", ["many"], "gate"),
            node("Mul", ["features", "gate"]),
        ],
        {"QLinearGlobalAveragePool": 1, "QLinearConv": 6, "QLinearMul": 1, "HardSigmoid": 0},
        32,
    ),
    "shuffle": (
        [
            node("Reshape", ["features", "apart"], "parts"),
            node("Transpose", ["parts"], "turned", perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["turned", "together"]),
        ],
        {"QLinearConv": 4, "Transpose": 1},
        32,
    ),
    "halves": (
        [
            helper.make_node("Split", ["features", "sizes"], ["a", "b"], axis=1),
            node("Conv", ["b", "half"], "c", pads=[1] * 4),
            node("Concat", ["a", "c"], axis=1),
        ],
        {"QLinearConv": 5, "QLinearConcat": 1, "Split": 1},
        32,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_between_layers_stays_in_8_bits(quantized, graphs, kind):
    """One QuantizeLinear at the image and one DequantizeLinear at the pooling: nothing in between is converted, if it need not be."""
    nodes, expected, channels = KINDS[kind]
    names = {name for part in nodes for name in part.input}
    tensors = [
        graphs.weights("deep", 32, 1, 3, 3),
        graphs.weights("grouped", 32, 8, 3, 3),
        graphs.weights("multiplied", 64, 1, 3, 3),
        graphs.weights("half", 16, 16, 3, 3),
        graphs.weights("fewer", 8, 32, 1, 1),
        graphs.weights("more", 32, 8, 1, 1),
        graphs.tensor("twice", [1, 1, 2, 2]),
        *(graphs.tensor(name, value) for name, value in (("zero", 0.0), ("six", 0.5), ("minus", -0.2))),
        *(graphs.tensor(name, np.linspace(0.5, 1.5, 64)) for name in STATISTICS),
        *(integers("sides", 2, 3), integers("apart", 0, 4, 8, 24, 24), integers("together", 0, 32, 24, 24), integers("sizes", 16, 16)),
    ]
    used = [tensor for tensor in tensors if tensor.name in names]
    result, found = quantized(behind_trunk(graphs, nodes, used, channels))
    assert all(layer.quantized for layer in result.layers)
    # Norms and pools in the form of convolutions are no layers.
    assert len(result.layers) == 4 + sum(part.op_type == "Conv" for part in nodes)
    assert {name: found[name] for name in expected} == expected
    converted = kind == "clip elsewhere"
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1 + converted, 1 + converted)
    assert not {"Conv", "FusedConv", "Mul", "Add", "Sigmoid"} & set(found)


@pytest.mark.parametrize("behind", [False, True], ids=["of values in FP32", "behind the last layer"])
def test_a_norm_that_is_not_between_8_bits_stays_in_fp32(quantized, graphs, behind):
    """Rounding what it reads, or gives, would cost time and answers."""
    norm = [node("Tanh", ["final" if behind else "features"], "t"), node("BatchNormalization", ["t", *STATISTICS], "n")]
    last = graphs.conv("features" if behind else "n", "last", "final")
    nodes = [*graphs.trunk(), *([last, *norm] if behind else [*norm, last]), *graphs.pool("n" if behind else "final", "y")]
    tensors = [graphs.weights("last", 32, 32, 3, 3), *(graphs.tensor(name, np.linspace(0.5, 1.5, 32)) for name in STATISTICS)]
    result, found = quantized(graphs.model(nodes, [*graphs.TRUNK, *tensors]))
    assert len(result.layers) == 4
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"] + found["BatchNormalization"]) == (4, 1)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == ((1, 1) if behind else (2, 2))


LINEAR = {
    "Gemm": [node("Gemm", ["flat", "matrix", "shift"], "y", alpha=0.5)],
    "Gemm, turned": [node("Gemm", ["flat", "turned", "shift"], "y", alpha=0.5, transB=1)],
    "Gemm, a line": [node("Gemm", ["flat", "matrix", "line"], "y")],
    "Gemm, one number": [node("Gemm", ["flat", "matrix", "number"], "y")],
    "MatMul": [node("MatMul", ["flat", "matrix"], "y")],
    "MatMul, Add": [node("MatMul", ["flat", "matrix"], "product"), node("Add", ["product", "shift"], "y")],
    "Add of a MatMul": [node("MatMul", ["flat", "matrix"], "product"), node("Add", ["shift", "product"], "y")],
    "MatMul, Add of a line": [node("MatMul", ["flat", "matrix"], "product"), node("Add", ["product", "line"], "y")],
    "MatMul, Add of one number": [node("MatMul", ["flat", "matrix"], "product"), node("Add", ["product", "number"], "y")],
}


@pytest.mark.parametrize("kind", LINEAR)
def test_a_linear_layer_that_pays_is_one_integer_product(quantized, graphs, kind):
    nodes = [*graphs.trunk(), *graphs.pool("features", "flat"), *LINEAR[kind]]
    linear = [
        graphs.weights("matrix", 32, 600),
        graphs.weights("turned", 600, 32),
        graphs.weights("shift", 600),
        graphs.weights("line", 1, 600),
        graphs.weights("number", 1),
    ]
    used = [tensor for tensor in linear if any(tensor.name in part.input for part in LINEAR[kind])]
    result, found = quantized(graphs.model(nodes, [*graphs.TRUNK, *used], outputs={"y": (FLOAT, ["N", 600])}), least_db=10)
    assert [layer.reason for layer in result.layers] == [""] * 4
    assert all(layer.int8_ms is not None and layer.sqnr_db > 20 for layer in result.layers)
    assert found["QGemm"] + found["MatMulIntegerToFloat"] == 1
    assert (found["DequantizeLinear"], found["QLinearGlobalAveragePool"]) == (0, 1)


@pytest.mark.parametrize(("batch", "product"), [(1, "QGemm"), ("N", "MatMulIntegerToFloat")])
def test_the_linear_layers_of_a_convnext_block_are_integer_products(quantized, graphs, batch, product):
    """On (N, height, width, channels), each with a bias. Where all sizes are known, ONNX Runtime makes a Gemm of a MatMul and its bias,
    and computes that in FP32 if the bias is not in integers."""
    nodes = [
        node("Transpose", ["features"], "last_channels", perm=[0, 2, 3, 1]),
        node("MatMul", ["last_channels", "widen"], "wide"),
        node("Add", ["wide", "wide_bias"], "wider"),
        node("Gelu", ["wider"], "gelu"),
        node("MatMul", ["gelu", "narrow"], "narrow_product"),
        node("Add", ["narrow_product", "narrow_bias"], "narrower"),
        node("Transpose", ["narrower"], "block", perm=[0, 3, 1, 2]),
        node("Add", ["features", "block"]),
    ]
    sizes = {"widen": (32, 512), "wide_bias": (512,), "narrow": (512, 32), "narrow_bias": (32,)}
    tensors = [graphs.weights(name, *shape) for name, shape in sizes.items()]
    result, found = quantized(behind_trunk(graphs, nodes, tensors, batch=batch, opset=20))
    assert all(layer.quantized and layer.int8_ms is not None for layer in result.layers)
    assert (found[product], found["QLinearAdd"], found["Gemm"], found["MatMul"]) == (2, 1, 0, 0)


def test_a_bias_that_differs_from_row_to_row_keeps_its_layer_in_fp32():
    network = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        rows (float[2,64] x) => (float[2,512] y) { y = Gemm(x, w, b) }"""
    )
    for name, shape in {"w": (64, 512), "b": (2, 512)}.items():
        network.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    (layer,) = make_plan(ir.from_proto(network).graph, {}).layers
    assert layer.reason == "its bias differs from row to row"


def test_depthwise_weights_keep_all_8_bits_and_no_others_can_saturate(quantized, graphs, tmp_path):
    """ONNX Runtime adds the nine products of a depthwise window in 32 bits, on every processor."""
    nodes, _, channels = KINDS["depthwise"]
    result, _ = quantized(behind_trunk(graphs, nodes, [graphs.weights("deep", 32, 1, 3, 3)], channels))
    assert [layer.saturation_safe for layer in result.layers] == [True, True, True, False, True]
    stored = {t.name: numpy_helper.to_array(t).astype(int) for t in onnx.load(tmp_path / "static.onnx").graph.initializer}
    assert (np.abs(stored["deep_int8"]).reshape(32, -1).max(axis=1) == 127).all()
    for name in ("w1_int8", "w2_int8", "last_int8"):
        even, odd = stored[name][:, 0::2], stored[name][:, 1::2]
        assert 255 * max((np.maximum(sign * even, 0) + np.maximum(sign * odd, 0)).max() for sign in (1, -1)) < 2**15


def test_a_bias_beside_weights_that_are_as_good_as_zero_fits(quantized, graphs):
    """A channel that training silenced, with what its BatchNorm adds: on the grid of its weights the bias is 1e12 steps."""
    dead = numpy_helper.to_array(graphs.weights("dead", 32, 32, 3, 3)).copy()
    dead[5] = 1e-15
    bias = np.full(32, 0.5)
    nodes = [node("Conv", ["features", "dead", "bias"], pads=[1] * 4)]
    quantized(behind_trunk(graphs, nodes, [graphs.tensor("dead", dead), graphs.tensor("bias", bias)]))


def test_answers_are_put_together_in_fp32(quantized, graphs):
    """Coordinates in pixels beside scores: on one grid of 8 bits the scores would be nothing."""
    nodes = [*graphs.trunk(), graphs.conv("features", "boxes", "offsets"), graphs.conv("features", "scores", "logits")]
    nodes += [node("Mul", ["offsets", "offsets"], "squares"), node("Mul", ["squares", "pixels"], "places")]
    nodes += [node("Sigmoid", ["logits"], "likely"), node("Concat", ["places", "likely"], "y", axis=1)]
    tensors = [*graphs.TRUNK, graphs.weights("boxes", 4, 32, 3, 3), graphs.weights("scores", 6, 32, 3, 3), graphs.tensor("pixels", 640.0)]
    result, found = quantized(graphs.model(nodes, tensors, outputs={"y": (FLOAT, ["N", 10, 24, 24])}), tolerance=0.1, least_db=10)
    assert [layer.reason for layer in result.layers] == [""] * 5
    assert (found["Sigmoid"], found["Concat"], found["Mul"]) == (1, 1, 2)
    assert not {"QLinearSigmoid", "QLinearConcat", "QLinearMul"} & set(found)


def test_what_only_a_layer_in_fp32_reads_is_not_rounded_for_it(quantized, graphs):
    """To leave a layer spares it the 8 bits of its input too, which may be all that it suffers from."""
    nodes, rounded, channels = KINDS["silu"]
    result, found = quantized(behind_trunk(graphs, nodes, [], channels), excluded=["final"])
    assert [layer.reason for layer in result.layers] == ["", "", "", "asked for"]
    assert (found["QLinearConv"], found["Sigmoid"], found["Mul"], found["Conv"] + found["FusedConv"]) == (3, 1, 1, 1)
    assert not set(rounded) & set(found)
    assert found["QuantizeLinear"] == 1


def test_an_output_in_the_middle_keeps_its_name(quantized, graphs):
    nodes = [*graphs.trunk(), graphs.conv("features", "last", "tail"), *graphs.pool("tail", "y")]
    outputs = {"features": (FLOAT, ["N", 32, 24, 24]), "y": (FLOAT, ["N", 32])}
    result, found = quantized(graphs.model(nodes, [*graphs.TRUNK, graphs.weights("last", 32, 32, 3, 3)], outputs=outputs), least_db=10)
    assert {output.output for output in result.proof.outputs} == {"features", "y"}
    assert [layer.reason for layer in result.layers] == [""] * 4
    assert found["QLinearConv"] == 4


def test_the_layers_that_spoil_an_output_stay_in_fp32(quantized, graphs):
    """One channel of the first head is 3,000 times as large as the others, which the second head reads alone."""
    uneven = numpy_helper.to_array(graphs.weights("uneven", 32, 32, 3, 3)).copy()
    uneven[0] *= 3000
    reader = numpy_helper.to_array(graphs.weights("reader", 32, 32, 3, 3)).copy()
    reader[:, 0] = 0
    nodes = [*graphs.trunk(), *graphs.pool("features", "y")]
    nodes += [graphs.conv("features", "uneven", "hidden"), graphs.conv("hidden", "reader", "map"), *graphs.pool("map", "mask")]
    outputs = {name: (FLOAT, ["N", 32]) for name in ("y", "mask")}
    tensors = [*graphs.TRUNK, graphs.tensor("uneven", uneven), graphs.tensor("reader", reader)]
    result, found = quantized(graphs.model(nodes, tensors, outputs=outputs), least_db=20)
    reasons = {layer.name: layer.reason for layer in result.layers if not layer.quantized}
    assert reasons["map"].startswith("costs too much: ")
    assert result.proof.sqnr_db >= 20
    assert 0 < found["QLinearConv"] < 5
    assert all(layer.sqnr_db > 20 for layer in result.layers if layer.quantized)


def test_a_layer_whose_result_does_not_fit_8_bits_stays_in_fp32(quantized, graphs):
    """One channel of it is 3,000 times as large as the others, which a Tanh makes as large again; the layer that follows reads those."""
    uneven = numpy_helper.to_array(graphs.weights("uneven", 32, 32, 3, 3)).copy()
    uneven[0] *= 3000
    nodes = [graphs.conv("features", "uneven", "hidden"), node("Tanh", ["hidden"])]
    result, _ = quantized(behind_trunk(graphs, nodes, [graphs.tensor("uneven", uneven)]), least_db=20)
    (left,) = [layer for layer in result.layers if not layer.quantized]
    assert left.name == "hidden"
    assert left.reason.startswith("costs too much: ")


def test_reasons_are_true(quantized, graphs):
    nodes = [
        *graphs.trunk(),
        node("ConvTranspose", ["features", "up"], "large", strides=[2, 2]),
        node("GlobalAveragePool", ["features"], "scale"),
        node("Mul", ["w1", "one"], "computed"),
        node("MatMul", ["features", "turned"], "products"),
        node("Transpose", ["features"], "turned", perm=[0, 1, 3, 2]),
        *graphs.pool("large", "y"),
    ]
    nodes[-4], nodes[-3] = nodes[-3], nodes[-4]
    nodes = [part for part in nodes if part.output[0] not in ("scale", "computed")]
    outputs = {"y": (FLOAT, ["N", 32]), "products": (FLOAT, ["N", 32, 24, 24])}
    result, _ = quantized(graphs.model(nodes, [*graphs.TRUNK, graphs.weights("up", 32, 32, 2, 2)], outputs=outputs), tolerance=0.08)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons["large"] == "transposed: ONNX Runtime has no integer operator for it"
    assert reasons["products"] == "both factors are computed as the model runs"


def test_what_floats_mean_must_be_said(tmp_path, graphs):
    source = tmp_path / "network.onnx"
    onnx.save(graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK), source)
    with pytest.raises(ExportError, match=r"the static form fixes ranges for one meaning of floats.*fix: --pixel-range normalized, 1, 255"):
        quantize_file(source, tmp_path / "static.onnx", form="static")
    onnx.save(graphs.model([node("Relu", ["x"], "y")], [], outputs={"y": (FLOAT, ["N", 3, 24, 24])}), source)
    with pytest.raises(ExportError, match=r"network.onnx: nothing to quantize: .*"):
        quantize_file(source, tmp_path / "static.onnx", form="static", pixel_range="1")
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


def test_images_that_decide_ranges_are_not_those_that_prove_them(quantized, graphs, image_folder, monkeypatch):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    seen = []
    form = quantize.StaticForm
    monkeypatch.setattr(
        quantize, "StaticForm", lambda model, calls, *more, **options: seen.append(calls) or form(model, calls, *more, **options)
    )
    proven = []
    search = quantize.Search
    monkeypatch.setattr(quantize, "Search", lambda original, *more: proven.append(original.probes) or search(original, *more))
    for folder in (None, image_folder / "train"):
        result, _ = quantized(network, images=folder)
        calibrating = {call.tobytes() for call in seen[-1] if len(call) == 1}
        proving = {call.tobytes() for probe in proven[-1] for call in probe.calls if len(call) == 1}
        assert len(calibrating) >= 10
        assert not calibrating & proving
        assert result.calibrated_on.startswith("generated shapes (normalized); " if folder is None else f"{len(calibrating)} images of ")


def test_a_model_of_this_project_says_that_it_is_static(exports, operators, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "race", lambda *calls, **_: RaceResult(first_ms=2, second_ms=1, speedup=2, lower=2, upper=2))
    monkeypatch.setattr(attempt, "PAYING_SHARES", ())
    result = quantize_file(exports["fp32"].path, tmp_path / "again.onnx", form="static")
    spec = Session(result.path).spec
    assert (spec.precision, spec.checkpoint_sha256) == ("int8-static", exports["fp32"].spec.checkpoint_sha256)
    assert operators(result.path)["QLinearConv"] == 20
    assert all(layer.int8_ms > 0 for layer in result.layers if layer.quantized)
    with pytest.raises(ExportError, match="quantized already"):
        quantize_file(result.path, tmp_path / "twice.onnx", form="static")


@pytest.mark.parametrize("batch", [3, "N"])
def test_half_precision_and_fixed_batches_are_taken(tmp_path, graphs, monkeypatch, batch):
    monkeypatch.setattr(attempt, "race", lambda *calls, **_: RaceResult(first_ms=2, second_ms=1, speedup=2, lower=2, upper=2))
    monkeypatch.setattr(attempt, "PAYING_SHARES", ())
    half = TensorProto.FLOAT16
    tensors = [graphs.weights(tensor.name, *tensor.dims, dtype=np.float16) for tensor in graphs.TRUNK]
    inputs, outputs = {"x": (half, [batch, 3, 24, 24])}, {"y": (half, [batch, 32])}
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], tensors, inputs=inputs, outputs=outputs)
    onnx.save(network, tmp_path / "network.onnx")
    result = quantize_file(tmp_path / "network.onnx", tmp_path / "static.onnx", form="static", pixel_range="normalized")
    assert [layer.reason for layer in result.layers] == [""] * 3
    # As far as normalized pixels go.
    x = graphs.pictures(3, 3, 24, 24, dtype=np.float16).clip(-2, 2.4)
    expected, found = (graphs.run((tmp_path / name).read_bytes(), x=x)["y"].astype(float) for name in ("network.onnx", "static.onnx"))
    assert np.linalg.norm(expected - found) <= 0.05 * np.linalg.norm(expected)


def test_an_output_that_other_layers_read_is_rounded_for_them_and_keeps_its_name(quantized, graphs):
    network = behind_trunk(graphs, [node("Conv", ["features", "w1"], pads=[1] * 4)], [], 32)
    network.graph.output.append(helper.make_tensor_value_info("features_sum", TensorProto.FLOAT, None))
    result, _ = quantized(network)
    assert [layer.quantized for layer in result.layers] == [True] * 5
    assert all(layer.int8_ms is not None and layer.sqnr_db > 20 for layer in result.layers)
