"""The static INT8 form: QuantizeLinear and DequantizeLinear around FP32 operators (QDQ), which runtimes fuse into integer ones."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from edgeresnet.errors import ExportError
from exporters.int8.layout import LEVELS, ImageShape, Layout
from exporters.int8.operators import first_input, name_of
from exporters.int8.quantize import QuantizedModel
from exporters.int8.weights import ColumnQuantizer
from exporters.static.channels import IMAGE_BLOCK, join_groups
from exporters.static.parameters import find_bias, round_parameters
from exporters.static.plan import Plan, is_depthwise, make_plan
from exporters.static.ranges import Calibration, Grid

# What a HardSigmoid gives, from 0 to 1.
SHARES: Final = Grid(np.float32(1 / LEVELS), np.uint8(0))

# Of the name of a layer in integers.
INTEGERS_SUFFIX: Final = "/integers"


def quantize_with_ranges(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    left: Mapping[str, str],
    quantizer: ColumnQuantizer,
    joins_groups: bool,
) -> QuantizedModel:
    """Quantize the convolutions and linear layers of a CNN and what lies between them.

    Activations are uint8 with one scale, weights int8 with one scale per output channel. An image's result does not depend on its
    neighbours. What ONNX Runtime has no integer operator for stays in FP32.

    All weights that could saturate on x86 processors without VNNI are scaled so that they cannot. For a CIFAR ResNet-18 that costs 0.1
    to 0.3 dB of 35, because activations with fixed ranges are the larger error here; ONNX Runtime's own static quantization, whose
    weights use all 8 bits, has 10 dB on such a processor.

    Args:
        model: A checked FP32 model that ``rewrite`` made.
        calibration: Of that model.
        left: Names of layers that stay in FP32, each with the reason.
        quantizer: Of the weights; it remembers those of earlier calls.
        joins_groups: Whether convolutions in narrow groups are computed in fewer and wider ones, as ``join_groups`` says.

    Raises:
        ExportError: If there is nothing to quantize.
    """
    quantized = ir.from_proto(model)
    plan = make_plan(quantized.graph, left)
    if not any(layer.quantized for layer in plan.layers):
        reasons = "; ".join(sorted({layer.reason for layer in plan.layers})) or "the model has no convolution and no linear layer"
        raise ExportError(f"nothing to quantize: {reasons}")
    layers = list(plan.computing(quantized.graph))
    grids = find_grids(plan, calibration)
    writer = _Writer(quantized.graph, quantizer, joins_groups=joins_groups)
    # Before the results get their grids: one that is an output of the model gives its name away.
    known = [(node, name_of(node), grids[first_input(node)].scale) for node in layers]
    for value in plan.owners:
        writer.insert_grid(value, plan.owners[value], grids[value])
    for node, name, scale in known:
        writer.replace_parameters(node, name, scale)
    common.RemoveUnusedNodesPass()(quantized)
    quantized.graph.sort()
    result = ir.to_proto(quantized)
    onnx.checker.check_model(result, full_check=True)
    return QuantizedModel(result, plan.layers)


def find_grids(plan: Plan, calibration: Calibration) -> dict[ir.Value, Grid]:
    """The grid of each value of a plan."""
    measured = [owner.name or "" for owner in plan.owners.values() if not _is_share(owner)]
    found = calibration.grids(measured)
    return {value: SHARES if _is_share(owner) else found[owner.name or ""] for value, owner in plan.owners.items()}


def _is_share(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "HardSigmoid"


class _Writer:
    """Writes grids and integer constants into a graph."""

    def __init__(self, graph: ir.Graph, quantizer: ColumnQuantizer, *, joins_groups: bool) -> None:
        self._layout, self._quantizer, self._joins_groups = Layout(graph), quantizer, joins_groups
        self._layout.work_before(None)

    def insert_grid(self, value: ir.Value, owner: ir.Value, grid: Grid) -> None:
        """Let everybody read the value as its 8 bits hold it."""
        node = value.producer()
        if node is not None and node.op_type == "HardSigmoid" and _is_rounded(first_input(node)):
            self._layout.replace(value, self._share(node, grid))
            return
        constants = [
            self._layout.scalar(grid.scale, f"{owner.name}_scale"),
            self._layout.scalar(grid.zero_point, f"{owner.name}_zero_point"),
        ]
        integers = self._layout.emit("QuantizeLinear", [value, *constants], name=f"{value.name}_uint8")
        rounded = self._layout.emit("DequantizeLinear", [integers, *constants], name=f"{value.name}_rounded")
        rounded.shape, rounded.type = value.shape, value.type
        self._layout.replace(value, rounded)
        quantize = integers.producer()
        if quantize is not None:
            quantize.replace_input_with(0, value)

    def _share(self, node: ir.Node, grid: Grid) -> ir.Value:
        """``clip(alpha * x + beta, 0, 1)`` as ``x + beta / alpha`` on a grid from 0 to ``1 / alpha``, whose codes are then read as shares.

        So it is one integer sum. ONNX Runtime has no integer HardSigmoid.
        """
        name, alpha, beta = name_of(node), node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        zero, all_levels = self._layout.scalar(np.uint8(0), "nothing"), self._layout.scalar(np.uint8(LEVELS), "all_levels")
        offset_scale = self._layout.scalar(np.float32(beta / alpha / LEVELS), f"{name}_offset_scale")
        offset = self._layout.emit("DequantizeLinear", [all_levels, offset_scale, zero], name=f"{name}_offset")
        moved = self._layout.emit("Add", [first_input(node), offset], name=f"{name}_moved")
        scale = self._layout.scalar(np.float32(1 / alpha / LEVELS), f"{name}_moved_scale")
        integers = self._layout.emit("QuantizeLinear", [moved, scale, zero], name=f"{name}_uint8")
        share = self._layout.emit(
            "DequantizeLinear", [integers, self._layout.scalar(grid.scale, f"{name}_scale"), zero], name=f"{name}_rounded"
        )
        share.shape, share.type = node.outputs[0].shape, node.outputs[0].type
        return share

    def replace_parameters(self, node: ir.Node, name: str, input_scale: np.float32) -> None:
        """Weights in int8; the bias in int32 on the grid of the integer sums, so that it is added to them."""
        node.name = self._layout.unique(f"{name}{INTEGERS_SUFFIX}")
        parameters = round_parameters(node, input_scale, self._quantizer)
        if node.op_type == "Gemm":
            for attribute in ("alpha", "beta", "transB"):
                node.attributes.pop(attribute, None)
        # Before the weights change: the bias of a MatMul is found by their shape.
        adding, place = find_bias(node) or (node, 2)
        self._replace(node, 1, self._shape_weights(node, parameters.weights), parameters.scales, parameters.axis)
        if parameters.bias is not None:
            self._replace(adding, place, parameters.bias, parameters.bias_scales, 0)

    def _shape_weights(self, node: ir.Node, weights: NDArray[np.int8]) -> NDArray[np.int8]:
        """Weights of a convolution in groups, or of channels, for which there is a faster kernel; the answers stay the same."""
        groups = node.attributes.get_int("group", 1)
        if node.op_type != "Conv" or is_depthwise(node):
            return weights
        if groups > 1 and self._joins_groups:
            weights, groups = join_groups(weights, groups)
            node.attributes["group"] = ir.AttrInt64("group", groups)
        missing, image = IMAGE_BLOCK - weights.shape[1], ImageShape.of(first_input(node))
        if groups > 1 or missing <= 0 or image is None:
            return weights
        self._read_more_channels(node, missing, image)
        return np.pad(weights, [(0, 0), (0, missing), *[(0, 0)] * (weights.ndim - 2)])

    def _read_more_channels(self, node: ir.Node, missing: int, image: ImageShape) -> None:
        """Append channels that are zero to what a layer reads in 8 bits.

        The sides of the image are one meanwhile. Otherwise ONNX Runtime moves the change of layout for the layer to before the Pad, and
        before all that a model does to its pixels: three channels side by side, which takes 0.17 ms for 64x64 pixels, 0.03 so.
        """
        rounded = first_input(node).producer()
        if rounded is None:
            raise ValueError(f"{name_of(node)} reads nothing in 8 bits")
        integers, scale, zero_point = rounded.inputs
        name, pads = name_of(node), self._layout.constant([0, 0, 0, 0, missing, 0])
        flat = self._layout.emit("Reshape", [integers, self._layout.constant([0, image.channels, image.pixels])], name=f"{name}/flat")
        padded = self._layout.emit("Pad", [flat, pads, zero_point], name=f"{name}/padded")
        sizes = self._layout.constant([0, image.channels + missing, image.height, image.width])
        more = self._layout.emit("Reshape", [padded, sizes], name=f"{name}/more_channels")
        node.replace_input_with(0, self._layout.emit("DequantizeLinear", [more, scale, zero_point], name=f"{name}/rounded"))

    def _replace(self, node: ir.Node, index: int, integers: NDArray[Any], scales: NDArray[np.float32], axis: int) -> None:
        parameter = node.inputs[index] if len(node.inputs) > index else None
        name = (parameter.name if parameter is not None else None) or f"{name_of(node)}_{index}"
        constants = [
            self._layout.constant(integers, f"{name}_{integers.dtype}"),
            self._layout.constant(scales, f"{name}_scales"),
            self._layout.constant(np.zeros(len(scales), integers.dtype), f"{name}_zero_points"),
        ]
        rounded = self._layout.emit("DequantizeLinear", constants, {"axis": axis}, name=f"{name}_rounded")
        node.resize_inputs(max(len(node.inputs), index + 1))
        node.replace_input_with(index, rounded)


def _is_rounded(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
