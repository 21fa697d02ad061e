"""One notation for what ONNX lets one write in several ways."""

from collections.abc import Iterator

import numpy as np
import onnx

_STANDARD = "ai.onnx"


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those in it: branches and the bodies of loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_in(attribute.g)


def normalize(source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which sparse tensors are dense, and ONNX's own domain has no name.

    The passes of onnx-ir do not know either form.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source)
    _unname_domain(model)
    for graph in graphs_in(model.graph):
        graph.initializer.extend(_densify(tensor, tensor.values.name) for tensor in graph.sparse_initializer)
        del graph.sparse_initializer[:]
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


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from (node for graph in graphs_in(model.graph) for node in graph.node)
    yield from (node for function in model.functions for node in function.node)


def _densify(tensor: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, indices = (onnx.numpy_helper.to_array(part) for part in (tensor.values, tensor.indices))
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    places = np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)
    dense[places] = values
    return onnx.numpy_helper.from_array(dense, name)
