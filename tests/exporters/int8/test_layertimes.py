import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporters.int8 import layertimes
from exporters.int8.quantize import quantize_dynamic_int8

CHANNELS, SIZE = 16, 12


@pytest.fixture(scope="module")
def quantized():
    """Two branches, put together and pooled, that two layers read."""
    generator = np.random.default_rng(0)
    weights = [("one", CHANNELS, CHANNELS), ("two", CHANNELS, CHANNELS), ("first", 32, 2 * CHANNELS), ("second", 32, 2 * CHANNELS)]
    tensors = [
        numpy_helper.from_array(generator.normal(size=(outputs, inputs, 3, 3)).astype(np.float32), f"w_{name}")
        for name, outputs, inputs in weights
    ]
    nodes = [helper.make_node("Conv", ["x", f"w_{name}"], [f"{name}_sum"], pads=[1] * 4) for name in ("one", "two")]
    nodes += [helper.make_node("Relu", [f"{name}_sum"], [name]) for name in ("one", "two")]
    nodes.append(helper.make_node("Concat", ["one", "two"], ["whole"], axis=1))
    nodes.append(helper.make_node("MaxPool", ["whole"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]))
    nodes += [helper.make_node("Conv", ["pooled", f"w_{name}"], [name]) for name in ("first", "second")]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("first", "second")]
    graph = helper.make_graph(nodes, "g", [image], ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return quantize_dynamic_int8(onnx.shape_inference.infer_shapes(model)).model


def test_layers_share_the_time_of_all_that_makes_the_rows_they_read(quantized, monkeypatch):
    seen = {}

    def profile_and_note(*arguments):
        seen.update(profile(*arguments))
        return seen

    profile = layertimes.profile
    monkeypatch.setattr(layertimes, "profile", profile_and_note)
    image = np.random.default_rng(0).normal(size=(1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    found = layertimes.time_int8_layers(quantized, {"x": image})
    assert {"whole/rows/highest", "whole/rows/rounded", "whole/rows/quantized", "pooled/rows/pooled"} <= seen.keys()
    assert set(found) == {"one_sum", "two_sum", "first", "second"}
    shared = sum(taken for name, taken in seen.items() if name.startswith(("whole/", "pooled/")))
    for name in ("first", "second"):
        own = sum(seen.get(f"{name}/{part}", 0) for part in ("product", "rows", "windows"))
        assert found[name] == pytest.approx(own + shared / 2)
