"""Biases of the static form are less by what rounding adds to a channel of most images."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from exporters.static.form import StaticForm

IMAGES, CHANNELS = 9, 32


@pytest.fixture
def network(graphs):
    """A convolution with a SiLU behind it, whose values hardly vary, and one that makes a shift of their rounding."""
    generator = np.random.default_rng(3)
    tensors = [
        numpy_helper.from_array(generator.normal(0, 0.02, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32), "narrow"),
        numpy_helper.from_array(np.linspace(-6, 1, CHANNELS).astype(np.float32), "offsets"),
        numpy_helper.from_array(generator.normal(0.2, 1, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32), "wide"),
        numpy_helper.from_array(generator.normal(0, 1, CHANNELS).astype(np.float32), "bias"),
    ]
    nodes = [
        graphs.node("Conv", ["x", "narrow", "offsets"], ["c"]),
        graphs.node("Sigmoid", ["c"], ["s"]),
        graphs.node("Mul", ["c", "s"], ["hidden"]),
        graphs.node("Conv", ["hidden", "wide", "bias"], ["map"]),
        graphs.node("GlobalAveragePool", ["map"], ["y"]),
    ]
    info = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", CHANNELS, size, size]) for name, size in (("x", 12), ("y", 1))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", info[:1], info[1:], tensors), opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture
def images():
    values = np.random.default_rng(5).normal(size=(IMAGES, CHANNELS, 12, 12)).astype(np.float32)
    values[4] *= 200
    return values


def constants(model):
    """What the second convolution reads of a quantized file, as float64."""
    found = {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    (node,) = [node for node in model.graph.node if node.name == "map/integers"]
    (weights, scales, _), (bias, bias_scales, _) = (makers[name].input for name in node.input[1:])
    _, scale, zero_point = makers[node.input[0]].input
    return (
        found[weights] * found[scales][:, None, None, None],
        found[bias] * found[bias_scales],
        found[bias_scales],
        found[scale],
        found[zero_point],
    )


def test_the_bias_is_less_by_the_usual_mean_error(network, images, graphs):
    (exact,) = [numpy_helper.to_array(tensor) for tensor in network.graph.initializer if tensor.name == "bias"]
    (wide,) = [numpy_helper.to_array(tensor) for tensor in network.graph.initializer if tensor.name == "wide"]
    form = StaticForm(network, [images[:4], images[4:]], {}, real=True)
    weights, bias, steps, scale, zero_point = constants(form.quantize({}).model)
    shown = onnx.ModelProto()
    shown.CopyFrom(network)
    shown.graph.output.append(onnx.helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None))
    hidden = graphs.run(shown.SerializeToString(), x=images)["hidden"].astype(float)
    rounded = (np.clip(np.rint(hidden / scale) + zero_point, 0, 255) - zero_point) * scale
    errors = np.einsum("oi,nihw->no", weights[..., 0, 0], rounded) - np.einsum("oi,nihw->no", wide[..., 0, 0].astype(float), hidden)
    shifts = np.median(errors / 144, axis=0)
    assert np.abs(shifts / steps).max() > 20, "there must be something to correct"
    np.testing.assert_allclose(bias, exact - shifts, atol=0.6 * steps.max())


def test_generated_images_correct_nothing(network, images):
    (exact,) = [numpy_helper.to_array(tensor) for tensor in network.graph.initializer if tensor.name == "bias"]
    _, bias, steps, *_ = constants(StaticForm(network, [images], {}, real=False).quantize({}).model)
    np.testing.assert_allclose(bias, exact, atol=0.6 * steps.max())
