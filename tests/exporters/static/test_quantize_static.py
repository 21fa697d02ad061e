from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgeresnet.errors import ExportError
from edgeresnet.evaluation import compare_logits, synthetic_images
from edgeresnet.session import Session
from exporters.int8.weights import quantize_columns
from exporters.static.classifier import quantize_static_int8
from exporters.static.form import StaticForm

IMAGES = synthetic_images(32, 64, seed=11)


def test_onnx_runtime_computes_every_convolution_but_the_stem_in_integers(exports, optimized):
    operators = Counter(node.op_type for node in optimized(exports["int8-static"].path, on_any_cpu=True).node)
    assert (operators["QLinearConv"], operators["QLinearAdd"]) == (19, 8)
    assert operators["Conv"] + operators["FusedConv"] == 1


def test_pixels_are_turned_before_they_are_normalized_and_have_a_fourth_channel(exports, optimized):
    """Three values side by side are slow to work on: ONNX Runtime must not move the normalization to NHWC."""
    graph = optimized(StaticForm(onnx.load(exports["fp32"].path), [IMAGES], {}).quantize({}).model.SerializeToString())
    makers = {output: node for node in graph.node for output in node.output}
    node = next(node for node in graph.node if node.op_type == "QLinearConv")
    before = []
    while node := makers.get(node.input[0]):
        before.append(node.op_type)
    assert before.index("Pad") < before.index("QuantizeLinear") < before.index("Transpose", before.index("QuantizeLinear"))
    assert {"Sub", "Mul"} & set(before[before.index("QuantizeLinear") : before.index("Transpose", before.index("QuantizeLinear"))])


def test_the_file_has_standard_operators_only_and_int8_weights(exports):
    model = onnx.load(exports["int8-static"].path)
    assert {node.domain for node in model.graph.node} == {""}
    kinds = Counter(t.data_type for t in model.graph.initializer if len(t.dims) == 4)
    assert kinds[TensorProto.INT8] == 19
    assert exports["int8-static"].size_bytes < 11.5e6


def test_answers_are_close_and_do_not_depend_on_neighbours(exports):
    session = Session(exports["int8-static"].path)
    logits = session.logits(IMAGES)
    assert compare_logits(Session(exports["fp32"].path).logits(IMAGES), logits).sqnr_db > 33
    alone = np.concatenate([session.logits(image[None]) for image in IMAGES[:5]])
    np.testing.assert_allclose(alone, logits[:5], rtol=1e-5, atol=1e-5)


def test_no_pair_of_weights_can_saturate(exports):
    """Two neighbouring channels of one position, with any activations, add up within 16 bits."""
    for tensor in onnx.load(exports["int8-static"].path).graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4:
            weights = onnx.numpy_helper.to_array(tensor).astype(int)
            pairs = weights[:, 0::2], weights[:, 1::2]
            for sign in (1, -1):
                assert 255 * sum(np.maximum(sign * part, 0) for part in pairs).max() < 2**15


def test_no_pair_of_weights_can_saturate_that_a_fourth_channel_makes(graphs):
    """In the second position of a window the first two of three channels are no pair, of four they are."""
    weights = np.random.default_rng(0).uniform(-0.1, 0.1, (16, 3, 3, 3)).astype(np.float32)
    weights[:, :2, 0, 1] = 1
    nodes = [graphs.conv("x", "w", "c"), graphs.node("Relu", ["c"], ["y"])]
    inputs, outputs = {"x": (TensorProto.FLOAT, [1, 3, 8, 8])}, {"y": (TensorProto.FLOAT, None)}
    model = onnx.shape_inference.infer_shapes(graphs.model(nodes, [graphs.tensor("w", weights)], inputs=inputs, outputs=outputs))
    calls = list(np.random.default_rng(1).uniform(0, 1, (4, 1, 3, 8, 8)).astype(np.float32))
    quantized = StaticForm(model, calls, {}).quantize({}).model
    (stored,) = [onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer if len(tensor.dims) == 4]
    assert stored.shape == (16, 4, 3, 3)
    assert 255 * (stored[:, 0::2].astype(int) + stored[:, 1::2]).max() < 2**15


def test_a_network_without_inner_convolutions_is_refused():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    with pytest.raises(ExportError, match="nothing to quantize"):
        quantize_static_int8(model, np.ones((2, 4), np.float32))


def test_weights_and_biases_are_the_nearest_on_their_grids(exports):
    """Weights as ``quantize_columns`` rounds them window by window; biases on the grid of the sums, off by half a step at most."""
    fp32 = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(exports["fp32"].path).graph.initializer}
    model = StaticForm(onnx.load(exports["fp32"].path), [IMAGES], {}).quantize({}).model
    static = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and makers.get(node.input[1])]
    assert len(convolutions) == 20
    for node in convolutions:
        (integers, scales, zeros), (bias, bias_scales, _) = (makers[name].input for name in node.input[1:])
        name = integers.removesuffix("_int8")
        outputs, inputs, down, across = fp32[name].shape
        matrix = fp32[name].transpose(2, 3, 1, 0).reshape(-1, outputs)
        expected = quantize_columns(matrix, positions=down * across, saturation_safe=True)
        # The stem has a fourth channel, which is zero.
        assert static[integers].shape[1] == max(4, inputs)
        assert not static[integers][:, inputs:].any()
        np.testing.assert_array_equal(static[integers][:, :inputs].transpose(2, 3, 1, 0).reshape(-1, outputs), expected.values)
        np.testing.assert_array_equal(static[scales], expected.scales)
        assert not static[zeros].any()
        exact = fp32[bias.removesuffix("_int32")]
        errors = np.abs(static[bias] * static[bias_scales].astype(float) - exact)
        # Half a step, and what float32 leaves of the number of steps.
        assert (errors <= (0.5001 + 1e-7 * np.abs(static[bias])) * static[bias_scales]).all()
        input_scale = static[makers[node.input[0]].input[1]]
        np.testing.assert_allclose(static[bias_scales], input_scale * expected.scales, rtol=1e-6)
