"""Small ONNX graphs, written by hand as others' tools write them."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def tensor(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def weights(name, *shape, dtype=np.float32):
    """Random weights under which activations keep their size; the name is the seed."""
    values = np.random.default_rng(list(name.encode())).normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    return tensor(name, values, dtype)


def conv(source, kernel, result, **attributes):
    return helper.make_node("Conv", [source, kernel], [result], **({"pads": [1] * 4} | attributes))


def trunk(source="x", result="features", **attributes):
    """Three convolutions with the weights of ``TRUNK``, from 3 to 32 channels, a Relu behind each."""
    names = [source, f"{result}_1", f"{result}_2", result]
    nodes = []
    for i in range(3):
        nodes += [conv(names[i], f"w{i}", f"{names[i + 1]}_sum", **attributes)]
        nodes += [helper.make_node("Relu", [f"{names[i + 1]}_sum"], [names[i + 1]])]
    return nodes


TRUNK = [weights("w0", 32, 3, 3, 3), weights("w1", 32, 32, 3, 3), weights("w2", 32, 32, 3, 3)]


def pool(source, result):
    return [helper.make_node("GlobalAveragePool", [source], [f"{result}_map"]), helper.make_node("Flatten", [f"{result}_map"], [result])]


def model(nodes, tensors, *, inputs=None, outputs=None, batch="N", opset=18, ir_version=8, **more):
    inputs = inputs or {"x": (FLOAT, [batch, 3, 24, 24])}
    outputs = outputs or {"y": (FLOAT, [batch, 32])}
    values = [[helper.make_tensor_value_info(name, *kind) for name, kind in part.items()] for part in (inputs, outputs)]
    graph = helper.make_graph(nodes, "graph", *values, tensors)
    return helper.make_model(graph, ir_version=ir_version, **({"opset_imports": [helper.make_opsetid("", opset)]} | more))


def run(network, **feeds):
    """Outputs by name, of a model or a file."""
    content = network.SerializeToString() if isinstance(network, onnx.ModelProto) else network
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def pictures(*shape, seed=0, dtype=np.float32):
    """Patches with a little noise, (N, channels, height, width)."""
    generator = np.random.default_rng(seed)
    count, channels, height, width = shape
    patches = np.kron(generator.normal(size=(count, channels, -(-height // 4), -(-width // 4))), np.ones((1, 1, 4, 4)))
    return (patches[:, :, :height, :width] + 0.1 * generator.normal(size=shape)).astype(dtype)


@pytest.fixture(scope="session")
def graphs():
    return SimpleNamespace(
        tensor=tensor,
        weights=weights,
        conv=conv,
        trunk=trunk,
        TRUNK=TRUNK,
        pool=pool,
        model=model,
        run=run,
        pictures=pictures,
        node=helper.make_node,
    )
