"""Weights and biases of a layer in integers."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from exporters.int8.operators import constant_array, name_of
from exporters.int8.products import Product, plan_product
from exporters.int8.weights import ColumnQuantizer
from exporters.static.plan import is_depthwise

# Half of what int32 holds: products are added to it. Where a channel's weights are as good as zero and its bias is not, as behind a
# BatchNorm of a dead channel, the grid of the weights is made coarser.
BIAS_LIMIT: Final = 1 << 30


@dataclass(frozen=True)
class Parameters:
    """Constants of a layer.

    Attributes:
        weights: int8, in the order of the operator: (outputs, inputs, ...) of a Conv, (inputs, outputs) of a Gemm or MatMul.
        axis: On which the outputs are.
        scales: float32 (outputs,), of the weights.
        bias: int32 (outputs,), on the grid of the integer sums; None if there is none. Of a MatMul it is what ``find_bias`` finds.
        bias_scales: float32 (outputs,), of the bias.
    """

    weights: NDArray[np.int8]
    axis: int
    scales: NDArray[np.float32]
    bias: NDArray[np.int32] | None
    bias_scales: NDArray[np.float32]


def round_parameters(node: ir.Node, input_scale: np.float32, quantizer: ColumnQuantizer) -> Parameters:
    """Round the weights and the bias of a Conv, Gemm or MatMul with constant ones.

    Weights are scaled so that they cannot saturate on x86 processors without VNNI (``quantize_columns``), except those of depthwise
    convolutions, which ONNX Runtime multiplies in 32 bits: they keep all 8.

    Args:
        node: The layer.
        input_scale: Of what it reads.
        quantizer: Of the weights.
    """
    matrix, positions, bias = _read(node)
    columns = quantizer(matrix, positions=positions, saturation_safe=not is_depthwise(node))
    values, scales = columns.values, columns.scales
    exact = np.zeros(len(scales), np.float32) if bias is None else np.broadcast_to(bias.ravel(), scales.shape)
    least = np.abs(exact) / (input_scale * np.float32(BIAS_LIMIT))
    if (scales < least).any():
        wider = np.maximum(scales, least)
        values, scales = np.rint(values * (scales / wider)).astype(np.int8), wider.astype(np.float32)
    bias_scales = (input_scale * scales).astype(np.float32)
    return Parameters(
        weights=_as_stored(node, values),
        axis=0 if node.op_type == "Conv" else 1,
        scales=scales,
        bias=None if bias is None else np.rint(exact / bias_scales).astype(np.int32),
        bias_scales=bias_scales,
    )


def find_bias(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node that adds a constant to each output of a layer, and which of its inputs that is; None if there is none.

    Of a MatMul it is the Add that alone reads it. ONNX Runtime computes the two as one, in FP32 unless both constants are integers.
    """
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    product, weights, readers = node.outputs[0], constant_array(node.inputs[1]), list(node.outputs[0].consumers())
    if len(readers) != 1 or readers[0].op_type != "Add" or product.is_graph_output() or weights is None or product.shape is None:
        return None
    place = 1 - list(readers[0].inputs).index(product)
    added = constant_array(readers[0].inputs[place])
    if added is None or added.shape[-1:] != weights.shape[-1:] or added.size != weights.shape[-1] or added.ndim > len(product.shape):
        return None
    return readers[0], place


def _read(node: ir.Node) -> tuple[NDArray[np.float32], int, NDArray[np.float32] | None]:
    """Weights as (inputs, outputs), by position, then channel; pixels of a window; bias."""
    adding = find_bias(node)
    bias = None if adding is None else constant_array(adding[0].inputs[adding[1]])
    if node.op_type != "Conv":
        product = plan_product(node)
        if not isinstance(product, Product):
            raise ExportError(f"{name_of(node)}: {product}")
        return product.matrix, 1, bias if product.bias is None else product.bias
    weights = constant_array(node.inputs[1])
    if weights is None:
        raise ExportError(f"{name_of(node)}: its weights are not constant")
    positions = int(np.prod(weights.shape[2:]))
    matrix = weights.reshape(*weights.shape[:2], positions).transpose(2, 1, 0).reshape(-1, len(weights))
    return np.ascontiguousarray(matrix), positions, bias


def _as_stored(node: ir.Node, values: NDArray[np.int8]) -> NDArray[np.int8]:
    if node.op_type != "Conv":
        return values
    shape: Any = () if node.inputs[1] is None or node.inputs[1].shape is None else node.inputs[1].shape.numpy()
    outputs, inputs, *_ = shape
    return np.ascontiguousarray(values.reshape(-1, inputs, outputs).transpose(2, 1, 0)).reshape(shape)
