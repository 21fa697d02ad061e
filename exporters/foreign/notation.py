"""One notation for what ONNX lets one write in several ways."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx

_STANDARD: Final = "ai.onnx"
# Of ONNX Runtime: a layer and the activation behind it. It writes them into files that it has optimised, which others pass on.
_RUNTIME: Final = "com.microsoft"
_FUSED: Final = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
# What the numbers of a FusedConv's activation are, in their order; a FusedGemm names them.
_SETTINGS: Final = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
# Clip takes its limits as inputs from here on.
_LIMITS_OPSET: Final = 11


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in it: branches and the bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)


def normalize(source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which sparse tensors are dense, ONNX's own domain has no name, and an activation is a node of its own.

    The passes of onnx-ir do not know the first two forms, and nobody but ONNX Runtime knows a layer that has an activation in it.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    _unname_domain(model)
    for graph in graphs_in(model.graph):
        graph.initializer.extend(_densify(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    for graph in list(graphs_in(model.graph)):
        nodes = [part for node in graph.node for part in _split_fused(node, opset)]
        del graph.node[:]
        graph.node.extend(nodes)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.name == "sparse_value" and node.op_type == "Constant":
                attribute.CopyFrom(onnx.helper.make_attribute("value", _densify(attribute.sparse_tensor, node.output[0])))
    return model


def _unname_domain(model: onnx.ModelProto) -> None:
    for part in (model, *model.functions):
        versions = {"" if entry.domain == _STANDARD else entry.domain: entry.version for entry in part.opset_import}
        del part.opset_import[:]
        part.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    for node in _nodes(model):
        if node.domain == _STANDARD:
            node.domain = ""


def _split_fused(node: onnx.NodeProto, opset: int) -> Iterator[onnx.NodeProto]:
    """A node, or the layer, the sum and the activation that are in it."""
    if node.domain != _RUNTIME or node.op_type not in _FUSED:
        yield node
        return
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    activation = given.pop("activation", b"").decode()
    numbers = given.pop("activation_params", [])
    settings = dict(zip(_SETTINGS.get(activation, ()), numbers, strict=False))
    settings |= {name.removeprefix("activation_"): given.pop(name) for name in list(given) if name.startswith("activation_")}
    (result,) = node.output
    addend = node.input[3] if node.op_type == "FusedConv" and len(node.input) > 3 else ""
    names = [f"{result}/layer"] * bool(addend or activation) + [f"{result}/sum"] * bool(addend and activation) + [result]
    yield onnx.helper.make_node(_FUSED[node.op_type], node.input[:3], names[:1], name=node.name, **given)
    if addend:
        yield onnx.helper.make_node("Add", [names[0], addend], names[1:2])
    if activation == "Clip" and opset >= _LIMITS_OPSET:
        limits = [f"{result}/{name}" for name in settings]
        for name, limit in zip(limits, settings.values(), strict=True):
            value = onnx.numpy_helper.from_array(np.array(limit, np.float32))
            yield onnx.helper.make_node("Constant", [], [name], value=value)
        yield onnx.helper.make_node("Clip", [names[-2], *limits], [result])
    elif activation:
        yield onnx.helper.make_node(activation, [names[-2]], [result], **settings)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from (node for graph in graphs_in(model.graph) for node in graph.node)
    yield from (node for function in model.functions for node in function.node)


def _densify(tensor: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, indices = (onnx.numpy_helper.to_array(part) for part in (tensor.values, tensor.indices))
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    places = np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)
    dense[places] = values
    return onnx.numpy_helper.from_array(dense, name)
