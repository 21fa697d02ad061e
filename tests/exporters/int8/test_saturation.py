import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.int8 import saturation
from exporters.int8.quantize import quantize_dynamic_int8
from exporters.int8.saturation import find_saturating_layers, quantize_without_saturation
from exporters.sessions import open_session

CHANNELS = 16


@pytest.fixture(scope="module")
def model():
    """One product of 127 times three of the channels."""
    weights = np.zeros((1, CHANNELS, 1, 1), np.float32)
    weights[0, :3] = 127
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, 2, 2])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [images], [end], [numpy_helper.from_array(weights, "w")])
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def images(*values):
    """The same pixel everywhere, with a channel of 255 that sets the scale to 1 and that nothing reads."""
    pixels = np.zeros((2, CHANNELS, 2, 2), np.float32)
    for channel, value in enumerate(values):
        pixels[:, channel] = value
    pixels[:, 5] = 255
    return pixels


@pytest.mark.parametrize(
    ("values", "found"),
    [((129, 129, 0), False), ((130, 129, 0), True), ((130, 129, 255), False)],
    ids=["16 bits just hold it", "48 dB", "54 dB"],
)
def test_a_layer_saturates_if_the_loss_is_within_fifty_decibels_of_its_result(model, values, found):
    """127 * 259 is 126 more than 16 bits hold."""
    quantized = quantize_dynamic_int8(model).model
    assert find_saturating_layers(quantized, images(*values)) == ({"y"} if found else set())
    (layer,) = quantize_without_saturation(model, images(*values)).layers
    assert layer.saturation_safe == found


def test_what_layers_read_is_recorded_without_saturation(model, monkeypatch):
    """On processors that saturate too, an early layer must not accuse the later ones."""
    opened = []

    def open_and_note(content, **options):
        opened.append(open_session(content, **options))
        return opened[-1]

    monkeypatch.setattr(saturation, "open_session", open_and_note)
    find_saturating_layers(quantize_dynamic_int8(model).model, images(1, 2, 3))
    (session,) = opened
    assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"
    with pytest.raises(RuntimeError, match="x64quantprecision"):
        open_session(model.SerializeToString()).get_session_options().get_session_config_entry("session.x64quantprecision")


def test_a_layer_whose_zero_point_is_known_beforehand_is_found_too(graphs):
    """It reads parts with nothing below zero: 127 times the same three channels, of the second part."""
    weights = np.zeros((1, 2 * CHANNELS, 1, 1), np.float32)
    weights[0, CHANNELS : CHANNELS + 3] = 127
    tensors = [graphs.tensor("w", weights), graphs.tensor("copy", np.eye(CHANNELS)[:, :, None, None])]
    nodes = [graphs.conv("x", "copy", "c", pads=[0] * 4), graphs.node("Relu", ["c"], ["r"])]
    nodes += [graphs.node("Concat", ["r", "r"], ["v"], axis=1), graphs.conv("v", "w", "y", pads=[0] * 4)]
    inputs, outputs = {"x": (TensorProto.FLOAT, ["n", CHANNELS, 2, 2])}, {"y": (TensorProto.FLOAT, None)}
    model = onnx.shape_inference.infer_shapes(graphs.model(nodes, tensors, inputs=inputs, outputs=outputs))
    quantized = quantize_dynamic_int8(model).model
    (zero_point,) = [node.input[2] for node in quantized.graph.node if node.name == "y/product"]
    assert zero_point in {tensor.name for tensor in quantized.graph.initializer}
    assert find_saturating_layers(quantized, images(129, 129, 0)) == set()
    assert find_saturating_layers(quantized, images(130, 129, 0)) == {"y"}
