import numpy as np
import onnx
import pytest
from onnx import TensorProto

from exporters.int8 import layertimes
from exporters.int8.quantize import quantize_dynamic_int8

CHANNELS, SIZE = 16, 12


@pytest.fixture(scope="module")
def quantized(graphs):
    """Two branches, put together and pooled, that two layers read."""
    nodes = [graphs.conv("x", f"w_{name}", f"{name}_sum") for name in ("one", "two")]
    nodes += [graphs.node("Relu", [f"{name}_sum"], [name]) for name in ("one", "two")]
    nodes.append(graphs.node("Concat", ["one", "two"], ["whole"], axis=1))
    nodes.append(graphs.node("MaxPool", ["whole"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]))
    nodes += [graphs.conv("pooled", f"w_{name}", name) for name in ("first", "second")]
    tensors = [graphs.weights(f"w_{name}", CHANNELS, CHANNELS, 3, 3) for name in ("one", "two")]
    tensors += [graphs.weights(f"w_{name}", 2 * CHANNELS, 2 * CHANNELS, 3, 3) for name in ("first", "second")]
    inputs = {"x": (TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])}
    network = graphs.model(nodes, tensors, inputs=inputs, outputs=dict.fromkeys(("first", "second"), (TensorProto.FLOAT, None)))
    return quantize_dynamic_int8(onnx.shape_inference.infer_shapes(network)).model


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
