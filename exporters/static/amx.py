"""The static INT8 form for x86 processors with AMX."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeresnet.spec import INPUT_NAME
from exporters.int8.layout import add_initializer


def fuse_for_amx(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn the quantized convolutions of a QDQ model into QLinearConv with zero points that are known at run time only.

    ONNX Runtime computes a QLinearConv with constant zero points by its VNNI kernel even where the processor has AMX. Where it cannot
    know them as it loads the model it takes rows of windows and its matrix kernel, which does use AMX. Processors without AMX are
    better served by ``model`` (a CIFAR ResNet-18 takes 1.2 times as long on AVX2). What it computes is the same.

    Args:
        model: From ``quantize_static_int8``, with the input ``INPUT_NAME``.
    """
    fused = ir.from_proto(model)
    zero_points = _ZeroPoints(fused.graph)
    for node in list(fused.graph):
        if node.op_type == "Conv" and (quantize := _find_quantize(node)) is not None:
            _fuse(fused.graph, node, quantize, zero_points)
    common.RemoveUnusedNodesPass()(fused)
    fused.graph.sort()
    result = ir.to_proto(fused)
    onnx.checker.check_model(result, full_check=True)
    return result


class _ZeroPoints:
    """Zero points that are computed from the number of images, times zero."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        images = next(value for value in graph.inputs if value.name == INPUT_NAME)
        count = self._add("Shape", [images], "amx_count", {"start": 0, "end": 1})
        scalar = self._add("Squeeze", [count], "amx_count_scalar")
        self._nothing = self._add("Mul", [scalar, add_initializer(graph, np.array(0, np.int64), "amx_zero")], "amx_nothing")
        self._made: dict[int, ir.Value] = {}

    def hide(self, constant: ir.Value | None) -> ir.Value:
        """The value of a uint8 constant, out of sight of whoever loads the model."""
        if constant is None or constant.const_value is None:
            raise ValueError("a zero point is not constant")
        number = int(constant.const_value.numpy())
        if number not in self._made:
            offset = add_initializer(self._graph, np.array(number, np.int64), f"amx_offset_{number}")
            moved = self._add("Add", [self._nothing, offset], f"amx_moved_{number}")
            self._made[number] = self._add("Cast", [moved], f"amx_zero_point_{number}", {"to": int(ir.DataType.UINT8)})
        return self._made[number]

    def _add(self, operator: str, inputs: list[ir.Value], name: str, attributes: dict[str, int] | None = None) -> ir.Value:
        node = ir.node(operator, inputs, attributes or {})
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]


def _find_quantize(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear that alone reads a convolution of quantized values, itself or through its Relu."""
    if any(_find_dequantize(value) is None for value in node.inputs):
        return None
    readers = list(node.outputs[0].consumers())
    if len(readers) == 1 and readers[0].op_type == "Relu":
        readers = list(readers[0].outputs[0].consumers())
    return readers[0] if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None


def _find_dequantize(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _fuse(graph: ir.Graph, node: ir.Node, quantize: ir.Node, zero_points: _ZeroPoints) -> None:
    """A Relu between the two needs nothing: below zero there is nothing on its grid, whose zero point is 0."""
    sources = [source for value in node.inputs if (source := _find_dequantize(value)) is not None]
    (activations, scale, zero_point), weights, *bias = [source.inputs for source in sources]
    _, result_scale, result_zero_point = quantize.inputs
    inputs = [activations, scale, zero_points.hide(zero_point), *weights, result_scale, zero_points.hide(result_zero_point)]
    inputs += [integers for integers, *_ in bias]
    result = ir.node("QLinearConv", inputs, node.attributes)
    quantized = quantize.outputs[0]
    result.outputs[0].name = f"{quantized.name}_amx"
    graph.insert_after(quantize, result)
    quantized.replace_all_uses_with(result.outputs[0])
