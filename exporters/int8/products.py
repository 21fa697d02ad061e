"""Layers with weights, as products of quantized rows and an int8 matrix."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layout import ImageShape, Layout, Quantized
from exporters.int8.operators import ARITHMETIC, ELEMENTWISE, constant_array, first_input, name_of, windows_of
from exporters.int8.transposed import spread_convolution
from exporters.int8.weights import ColumnQuantizer, QuantizedMatrix
from exporters.int8.windows import Windows

# Operators that have weights.
LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Rows of fewer values cost more to string together than their products save.
MIN_CHANNELS: Final = 16
# Convolutions in so many groups are one product in which the weights of other groups are zero. Measured between 1x1 convolutions: with two
# groups of 64 and 128 channels all run at 1.6 and 1.9 times the FP32 speed, at 1.1 and 1.2 if that one stays; with four they do not gain.
MAX_GROUPS: Final = 2
# Products per value that must change its layout. Measured with 0, 40, 64, 100 and 150 on AVX2: a MobileNetV2 runs at 0.90, 1.14, 1.13,
# 1.10 and 1.11 times its FP32 speed, a MobileNetV3 at 0.94, 1.09, 1.10, 1.09 and 1.09.
MIN_PRODUCTS_PER_CONVERSION: Final = 40
# The last layer of a CIFAR ResNet-18, 5,120 weights, takes 11 us either way; in FP32 the network is 0.5 dB closer to the original.
MIN_LINEAR_WEIGHTS: Final = 1 << 14
# Of the name of the integer product of a layer.
PRODUCT_SUFFIX: Final = "/product"


@dataclass(frozen=True)
class Product:
    """A layer as a matrix product.

    Attributes:
        matrix: float32 (inputs, outputs). Inputs of a convolution are ordered by position in the window, then channel.
        windows: What a convolution reads for each row of its result; None for a linear layer.
        bias: In place of the node's own.
        spread: Lines and columns of pixels that each row of the result holds.
    """

    matrix: NDArray[np.float32]
    windows: Windows | None = None
    bias: NDArray[np.float32] | None = None
    spread: tuple[int, int] = (1, 1)

    @property
    def positions(self) -> int:
        """Pixels in a window."""
        return 1 if self.windows is None else self.windows.size


def plan_product(node: ir.Node) -> Product | str:
    """One of ``LAYERS`` as a product, or the reason why it stays as it is."""
    plan = {"Conv": _plan_convolution, "ConvTranspose": _plan_transposed}.get(node.op_type, _plan_linear)(node)
    if isinstance(plan, Product) and not np.isfinite(plan.matrix).all():
        return "its weights are not all finite numbers"
    return plan


def emit_product(layout: Layout, node: ir.Node, product: Product, *, saturation_safe: bool, quantizer: ColumnQuantizer) -> None:
    """Replace a layer by its planned product.

    Postcondition: the node's result exists as rows (convolutions), or whoever read it reads the product (linear layers).
    """
    result = compute_product(layout, node, product, saturation_safe=saturation_safe, quantizer=quantizer)
    if product.windows is None:
        layout.replace(node.outputs[0], result)
    else:
        layout.supersede(node.outputs[0], result)


def multiply_rows(layout: Layout, node: ir.Node) -> bool:
    """Let a 1x1 convolution that stays in FP32 be a product of float rows, if what it reads exists as rows alone; say whether it is.

    Behind a Relu on rows, 1024 pixels of 128 channels become 4, 16 and 64 in 77, 88 and 242 us so, and in 108, 115 and 194 us in INT8
    (AVX2, one thread). With more outputs than inputs more values would have to be turned back for those who want NCHW.
    """
    weights, windows = constant_array(node.inputs[1]), windows_of(node) if node.op_type == "Conv" else None
    if weights is None or windows is None or not windows.is_identity or node.attributes.get_int("group", 1) != 1:
        return False
    if layout.has_nchw(first_input(node)) or len(weights) > weights.shape[1]:
        return False
    name = name_of(node)
    matrix = layout.constant(weights.reshape(weights.shape[:2]).T, f"{name}/matrix")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    result = layout.emit("MatMul", [layout.rows(first_input(node)), matrix], name=f"{name}/rows")
    layout.supersede(node.outputs[0], result if bias is None else layout.emit("Add", [result, bias], name=f"{name}/biased"))
    return True


def compute_product(layout: Layout, node: ir.Node, product: Product, *, saturation_safe: bool, quantizer: ColumnQuantizer) -> ir.Value:
    """What the planned product gives: rows for a convolution, the result itself for a linear layer. The layer stays as it is."""
    weights = quantizer(product.matrix, positions=product.positions, saturation_safe=saturation_safe)
    if product.windows is None:
        return _multiply(layout, node, layout.quantized(layout.nchw(first_input(node))), weights, product.bias)
    quantized = layout.quantized_rows(first_input(node))
    columns = _string_together(layout, node, quantized, product.windows, len(product.matrix))
    result = _multiply(layout, node, quantized._replace(values=columns), weights, product.bias)
    return result if product.spread == (1, 1) else _spread(layout, node, result, product.windows, product.spread)


def _plan_convolution(node: ir.Node) -> Product | str:
    weights, windows, groups = constant_array(node.inputs[1]), windows_of(node), node.attributes.get_int("group", 1)
    reason = ""
    if weights is None:
        reason = "its weights are computed as the model runs"
    elif weights.ndim not in (3, 4):
        reason = f"windows of {weights.ndim - 2} dimensions, not 1 or 2"
    elif windows is None:
        reason = "height and width of what it reads are known only as the model runs"
    elif groups > MAX_GROUPS:
        reason = "grouped: not one product"
    elif groups * weights.shape[1] < MIN_CHANNELS:
        reason = f"{groups * weights.shape[1]} input channels: rows too short"
    elif weights.size < MIN_PRODUCTS_PER_CONVERSION * _values_converted_for(node):
        reason = "beside a grouped convolution: turning the layout costs more"
    if weights is None or windows is None or reason:
        return reason
    # (outputs, inputs, down, across) to (down, across, inputs, outputs); of a line there is no down.
    weights = _join_groups(weights.reshape(*weights.shape[:2], *windows.kernel), groups)
    return Product(weights.transpose(2, 3, 1, 0).reshape(-1, len(weights)), windows)


def _join_groups(weights: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Weights (outputs, inputs of a group, down, across) for all inputs: zero for those of other groups."""
    if groups == 1:
        return weights
    outputs, inputs, *kernel = weights.shape
    joined = np.zeros((groups, outputs // groups, groups, inputs, *kernel), np.float32)
    for group, part in enumerate(np.split(weights, groups)):
        joined[group, :, group] = part
    return joined.reshape(outputs, groups * inputs, *kernel)


def _plan_transposed(node: ir.Node) -> Product | str:
    weights, before, after = constant_array(node.inputs[1]), ImageShape.of(first_input(node)), ImageShape.of(node.outputs[0])
    added = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_array(added)
    reason = ""
    if weights is None or (added is not None and bias is None):
        reason = "its weights are computed as the model runs"
    elif weights.ndim != 4:
        reason = f"transposed, with windows of {weights.ndim - 2} dimensions, not 2"
    elif before is None or after is None:
        reason = "height and width of what it reads are known only as the model runs"
    elif node.attributes.get_int("group", 1) != 1:
        reason = "grouped: not one product"
    elif len(weights) < MIN_CHANNELS:
        reason = f"{len(weights)} input channels: rows too short"
    if weights is None or before is None or after is None or reason:
        return reason
    plan = spread_convolution(node, weights, before, after)
    if isinstance(plan, str):
        return plan
    tiled = None if bias is None else np.tile(bias, plan.spread[0] * plan.spread[1])
    return Product(plan.matrix, plan.windows, tiled, plan.spread)


def _values_converted_for(node: ir.Node) -> int:
    """Values per pixel that must change their layout because a neighbour, a grouped convolution, wants NCHW."""
    inputs, outputs = (ImageShape.of(value) for value in (first_input(node), node.outputs[0]))
    converted = 0
    if inputs is not None and _is_grouped(_source(first_input(node))):
        converted += inputs.channels
    if outputs is not None and any(map(_is_grouped, _readers(node.outputs[0]))):
        converted += outputs.channels
    return converted


def _source(value: ir.Value) -> ir.Node | None:
    """The node that a value comes from, passing over those to which the layout does not matter."""
    node = value.producer()
    while node is not None and node.op_type in ELEMENTWISE | ARITHMETIC and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that a value goes to, passing over those to which the layout does not matter."""
    return [reader for node in value.consumers() for reader in (_readers(node.outputs[0]) if node.op_type in ELEMENTWISE else [node])]


def _is_grouped(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Conv" and node.attributes.get_int("group", 1) > MAX_GROUPS


def _plan_linear(node: ir.Node) -> Product | str:
    weights = _matrix(node)
    reason = ""
    if weights is None:
        reason = "its weights are computed as the model runs"
        if node.op_type == "MatMul":
            on_the_left = constant_array(node.inputs[0]) is not None
            reason = "its weights are on the left" if on_the_left else "both factors are computed as the model runs"
    elif weights.ndim != 2:
        reason = f"its weights have {weights.ndim} dimensions, not 2"
    elif weights.size < MIN_LINEAR_WEIGHTS:
        reason = f"{weights.size:,} weights: too few to save anything"
    if weights is None or reason:
        return reason
    return Product(weights) if node.op_type == "MatMul" else _plan_gemm(node, weights)


def _matrix(node: ir.Node) -> NDArray[np.float32] | None:
    """The weights of a linear layer; of several dimensions with one matrix in all, that matrix."""
    weights, shape = constant_array(node.inputs[1]), first_input(node).shape
    if weights is not None and weights.ndim > 2 and shape is not None and len(shape) >= weights.ndim:
        return weights.reshape(weights.shape[-2:]) if weights.size == weights.shape[-2] * weights.shape[-1] else weights
    return weights


def _plan_gemm(node: ir.Node, weights: NDArray[np.float32]) -> Product | str:
    alpha, beta = (np.float32(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
    added = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_array(added)
    if node.attributes.get_int("transA", 0) != 0:
        return "what it reads is turned round (transA)"
    if added is not None and bias is None and beta != 1:
        return "its bias is computed as the model runs, and multiplied (beta)"
    turned = weights.T if node.attributes.get_int("transB", 0) else weights
    if beta == 0:
        return Product(turned * alpha, bias=np.zeros(1, np.float32))  # whatever the bias is
    return Product(turned * alpha, bias=None if beta == 1 or bias is None else bias * beta)


def _string_together(layout: Layout, node: ir.Node, quantized: Quantized, windows: Windows, depth: int) -> ir.Value:
    """The rows of each window side by side (im2col): uint8 (N, windows, size * channels)."""
    values, _, zero_point = quantized
    if windows.is_identity:
        return values
    if windows.reads_padding:
        values = layout.with_padding_row(values, zero_point)
    columns = layout.emit("Gather", [values, layout.table(windows)], {"axis": 1}, name=f"{name_of(node)}/rows")
    if windows.size == 1:
        return columns
    return layout.emit("Reshape", [columns, layout.constant([0, windows.count, depth])], name=f"{name_of(node)}/windows")


def _spread(layout: Layout, node: ir.Node, rows: ir.Value, windows: Windows, spread: tuple[int, int]) -> ir.Value:
    """One row for each pixel, of rows that hold several: (N, lines * columns, spread * outputs) to (N, pixels, outputs)."""
    after = layout.shape(node.outputs[0])
    (down, across), (lines, columns), name = windows.output_size, spread, name_of(node)
    apart = layout.emit("Reshape", [rows, layout.constant([0, down, across, lines, columns * after.channels])], name=f"{name}/apart")
    turned = layout.emit("Transpose", [apart], {"perm": [0, 1, 3, 2, 4]}, name=f"{name}/spread")
    return layout.emit("Reshape", [turned, layout.constant([0, after.pixels, after.channels])], name=f"{name}/pixels")


def _multiply(
    layout: Layout,
    node: ir.Node,
    quantized: Quantized,
    weights: QuantizedMatrix,
    other_bias: NDArray[np.float32] | None = None,
) -> ir.Value:
    """Integer product, scaled back to float, with bias. ONNX Runtime runs these five nodes as one."""
    name = name_of(node)
    stored_as = (node.inputs[1].name if node.inputs[1] is not None else None) or name
    values, scale, zero_point = quantized
    integers = layout.emit(
        "MatMulInteger", [values, layout.constant(weights.values, f"{stored_as}_int8"), zero_point], name=f"{name}{PRODUCT_SUFFIX}"
    )
    scales = layout.emit("Mul", [scale, layout.constant(weights.scales, f"{stored_as}_scales")], name=f"{name}/scales")
    floats = layout.emit("Cast", [integers], {"to": ir.DataType.FLOAT}, name=f"{name}/float")
    scaled = layout.emit("Mul", [floats, scales], name=f"{name}/scaled")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if other_bias is not None:
        bias = layout.constant(other_bias, f"{name}/bias")
    return scaled if bias is None else layout.emit("Add", [scaled, bias], name=f"{name}/biased")
