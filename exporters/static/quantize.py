"""The static INT8 form: QuantizeLinear and DequantizeLinear around FP32 operators (QDQ), which runtimes fuse into integer ones."""

from collections.abc import Container
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeresnet.errors import ExportError
from exporters.int8.layout import add_initializer
from exporters.int8.operators import constant_array, first_input, name_of
from exporters.int8.weights import quantize_columns
from exporters.static.ranges import Grid, calibrate

# What belongs to a convolution or sum whose result it alone reads: on a grid that ends where it cuts off it needs no computation.
ACTIVATIONS: Final = frozenset({"Relu", "Clip"})


def quantize_static_int8(model: onnx.ModelProto, images: NDArray[Any]) -> onnx.ModelProto:
    """Quantize the convolutions of a CNN and what lies between them, with ranges from calibration images.

    Activations are uint8 with one scale, weights int8 with one scale per output channel; layers that read no quantized activation
    (a stem on pixels, the head behind the pooling) stay in FP32. An image's result does not depend on its neighbours.

    All weights are scaled so that they cannot saturate on x86 processors without VNNI (``quantize_columns``). For a CIFAR ResNet-18
    that costs 0.1 to 0.3 dB of 35, because activations with fixed ranges are the larger error here; ONNX Runtime's own
    static quantization, whose weights use all 8 bits, has 10 dB on such a processor.

    Args:
        model: A checked FP32 model with one input and an open batch, all tensors in it.
        images: Training images as values of that input.

    Raises:
        ExportError: If there is no convolution to quantize.
    """
    quantized = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    values = _choose_values(quantized.graph)
    convolutions = [node for node in quantized.graph if _reads_weights(node) and first_input(node) in values]
    if not convolutions:
        raise ExportError("nothing to quantize: no convolution reads the result of another layer")
    grids = calibrate(model, [value.name or "" for value in values], images)
    scales = {_insert_grid(quantized.graph, value, grids[value.name or ""]): grids[value.name or ""].scale for value in values}
    for node in convolutions:
        _quantize_parameters(quantized.graph, node, scales[first_input(node)])
    common.RemoveUnusedNodesPass()(quantized)
    result = ir.to_proto(quantized)
    onnx.checker.check_model(result, full_check=True)
    return result


def _choose_values(graph: ir.Graph) -> list[ir.Value]:
    """What gets a grid: what convolutions read, and what is computed of that alone, so that the whole operator is one of integers.

    Nothing in front of the first convolution does, and nothing that a grid would only make coarser.
    """
    behind: set[ir.Value] = set()
    chosen: dict[ir.Value, None] = {}
    for node in graph:
        if _reads_weights(node) or any(value in behind for value in node.inputs if value is not None):
            behind.update(node.outputs)
        value = node.outputs[0]
        if value not in behind or value.dtype != ir.DataType.FLOAT or _belongs_to_activation(value):
            continue
        computing = first_input(node).producer() if _is_activation(node) and _belongs_to_activation(first_input(node)) else node
        if _is_read_by_convolution(value) or (computing is not None and _computes_in_integers(computing, chosen)):
            chosen[value] = None
    return list(chosen)


def _computes_in_integers(node: ir.Node, chosen: Container[ir.Value]) -> bool:
    if node.op_type == "Add":
        return all(value in chosen for value in node.inputs)
    return _reads_weights(node) and first_input(node) in chosen


def _reads_weights(node: ir.Node) -> bool:
    return node.op_type == "Conv" and constant_array(node.inputs[1]) is not None


def _is_read_by_convolution(value: ir.Value) -> bool:
    return any(use.idx == 0 and _reads_weights(use.node) for use in value.uses())


def _is_activation(node: ir.Node) -> bool:
    return node.op_type in ACTIVATIONS


def _belongs_to_activation(value: ir.Value) -> bool:
    """Whether runtimes compute the value and the activation that alone reads it as one."""
    producer, readers = value.producer(), list(value.consumers())
    return producer is not None and producer.op_type in ("Conv", "Add") and len(readers) == 1 and _is_activation(readers[0])


def _insert_grid(graph: ir.Graph, value: ir.Value, grid: Grid) -> ir.Value:
    """Let everybody read the value as its 8 bits hold it; returns that value."""
    readers = list(value.uses())
    scale = add_initializer(graph, np.array(grid.scale), f"{value.name}_scale")
    zero_point = add_initializer(graph, np.array(grid.zero_point), f"{value.name}_zero_point")
    quantize = ir.node("QuantizeLinear", [value, scale, zero_point])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero_point])
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{value.name}_uint8", f"{value.name}_rounded"
    producer = value.producer()
    if producer is None:
        raise ExportError(f"{value.name}: nothing computes it")
    graph.insert_after(producer, [quantize, dequantize])
    for reader in readers:
        reader.node.replace_input_with(reader.idx, dequantize.outputs[0])
    return dequantize.outputs[0]


def _quantize_parameters(graph: ir.Graph, node: ir.Node, input_scale: np.float32) -> None:
    """Weights in int8; the bias in int32 on the grid of the integer sums, so that it is added to them."""
    weights = constant_array(node.inputs[1])
    if weights is None:
        raise ExportError(f"{name_of(node)}: its weights are not constant")
    outputs, inputs, down, across = weights.shape
    matrix = np.ascontiguousarray(weights.transpose(2, 3, 1, 0)).reshape(-1, outputs)
    columns = quantize_columns(matrix, positions=down * across, saturation_safe=True)
    integers = np.ascontiguousarray(columns.values.reshape(down, across, inputs, outputs).transpose(3, 2, 0, 1))
    _replace_parameter(graph, node, 1, integers, columns.scales)
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        scales = (input_scale * columns.scales).astype(np.float32)
        _replace_parameter(graph, node, 2, np.rint(bias / scales).astype(np.int32), scales)


def _replace_parameter(graph: ir.Graph, node: ir.Node, index: int, integers: NDArray[Any], scales: NDArray[np.float32]) -> None:
    parameter = node.inputs[index]
    name = (parameter.name if parameter is not None else None) or f"{name_of(node)}_{index}"
    constants = [
        add_initializer(graph, integers, f"{name}_{integers.dtype}"),
        add_initializer(graph, scales, f"{name}_scales"),
        add_initializer(graph, np.zeros(len(scales), integers.dtype), f"{name}_zero_points"),
    ]
    dequantize = ir.node("DequantizeLinear", constants, {"axis": 0})
    dequantize.outputs[0].name = f"{name}_rounded"
    graph.insert_before(node, dequantize)
    node.replace_input_with(index, dequantize.outputs[0])
