"""A model in half precision, computed in float32."""

import numpy as np
import onnx
import onnx_ir as ir

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


def is_half(model: onnx.ModelProto) -> bool:
    """Whether a model has weights in float16."""
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)


def widen(model: ir.Model) -> None:
    """Let a model in float16 compute in float32; its inputs and outputs keep their types.

    Every float16 number is a float32 number, so nothing is lost; results differ by what float16 rounds off between two nodes.
    """
    graph = model.graph
    half_outputs = {value for value in graph.outputs if value.dtype == _HALF}
    for value in graph.initializers.values():
        if value.const_value is not None and value.dtype == _HALF:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = _SINGLE
    for node in ir.traversal.RecursiveGraphIterator(graph):
        _widen_attributes(node)
        for value in node.outputs:
            if value.dtype == _HALF:
                value.dtype = _SINGLE
    for value in [value for value in graph.inputs if value.dtype == _HALF]:
        cast = ir.node("Cast", [value], {"to": int(_SINGLE)})
        cast.outputs[0].name = f"{value.name}_float32"
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
        graph.insert_before(graph[0], cast)
    for index, value in enumerate(list(graph.outputs)):
        if value in half_outputs and not value.is_graph_input():
            name = value.name
            value.name = f"{name}_float32"
            cast = ir.node("Cast", [value], {"to": int(_HALF)})
            cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, _HALF, value.shape
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == _HALF:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
        elif name in ("to", "dtype") and attribute.type == ir.AttributeType.INT and attribute.value == _HALF:
            node.attributes[name] = ir.AttrInt64(name, _SINGLE)
