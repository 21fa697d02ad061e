"""The static INT8 form, as the search for the largest set of layers wants it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layertimes import profile
from exporters.int8.layout import Layout
from exporters.int8.operators import first_input, name_of
from exporters.int8.quantize import LayerChoice, QuantizedModel
from exporters.int8.sensitivity import LayerEmitter
from exporters.int8.weights import ColumnQuantizer
from exporters.static.parameters import round_parameters
from exporters.static.plan import make_plan
from exporters.static.quantize import INTEGERS_SUFFIX, find_grids, quantize_with_ranges
from exporters.static.ranges import Calibration, Grid
from exporters.static.rewriting import rewrite

# What ONNX Runtime appends to the name of an operator that it joins with the sum behind it.
_APPENDED: Final = "/MatMulAddFusion"


class StaticForm:
    """Activations have ranges that calibration images decide.

    Args:
        model: A checked FP32 model.
        calls: Calibration images, as values of its input.
        left: Layers that stay in FP32 in any case, each with the reason.
        joins_groups: Whether convolutions in narrow groups are computed in wider ones, which was measured to pay with VNNI.

    Raises:
        ExportError: If nothing of it can be quantized.
    """

    precision: Final = "int8-static"

    def __init__(
        self, model: onnx.ModelProto, calls: Sequence[NDArray[Any]], left: Mapping[str, str], *, joins_groups: bool = False
    ) -> None:
        self.model, self._quantizer, self._joins_groups = rewrite(model), ColumnQuantizer(), joins_groups
        self._calibration = Calibration(self.model, calls)
        self.quantize(left)

    def quantize(self, left: Mapping[str, str]) -> QuantizedModel:
        """All layers but those named in INT8."""
        return quantize_with_ranges(self.model, self._calibration, left=left, quantizer=self._quantizer, joins_groups=self._joins_groups)

    def emitter(self, layers: Sequence[LayerChoice]) -> LayerEmitter:
        """Puts beside one of these layers what it gives for 8 bits, with weights of 8 bits.

        Its result is in 8 bits too, where it is in the file and no activation belongs to it.
        What that does is the layer's own: a MobileNetV3-Large had 38 of 64 layers in INT8 at 20 dB, 4 where it was told of none.
        """
        graph = ir.from_proto(self.model).graph
        plan = make_plan(graph, {layer.name: layer.reason for layer in layers if not layer.quantized})
        grids = find_grids(plan, self._calibration)
        around = {name_of(node): (grids[first_input(node)], grids.get(node.outputs[0])) for node in plan.computing(graph)}

        def emit(layout: Layout, node: ir.Node) -> ir.Value:
            before, after = around[name_of(node)]
            result = _emit(layout, node, before, self._quantizer)
            return result if after is None else _round(layout, result, after, f"{name_of(node)}/result")

        return emit

    def time_layers(self, quantized: QuantizedModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Milliseconds of each layer in INT8, with the activation that is part of it."""
        times: dict[str, float] = {}
        for event, taken in profile(quantized.model, feeds).items():
            name = event.removesuffix(_APPENDED)
            if name.endswith(INTEGERS_SUFFIX):
                times[name.removesuffix(INTEGERS_SUFFIX)] = taken
        return times


def _emit(layout: Layout, node: ir.Node, grid: Grid, quantizer: ColumnQuantizer) -> ir.Value:
    parameters, name = round_parameters(node, grid.scale, quantizer), name_of(node)
    inputs = [_round(layout, first_input(node), grid, f"{name}/read")]
    scales = parameters.scales.reshape([-1 if axis == parameters.axis else 1 for axis in range(parameters.weights.ndim)])
    inputs.append(layout.constant(parameters.weights * scales, f"{name}/weights"))
    # What is added to a MatMul is a node of its own, which stays.
    if parameters.bias is not None and node.op_type != "MatMul":
        inputs.append(layout.constant((parameters.bias * parameters.bias_scales).astype(np.float32), f"{name}/bias"))
    attributes: Mapping[str, Any] = {} if node.op_type == "Gemm" else node.attributes
    return layout.emit(node.op_type, inputs, attributes, name=f"{name}/int8")


def _round(layout: Layout, value: ir.Value, grid: Grid, name: str) -> ir.Value:
    constants = [layout.scalar(grid.scale, f"{name}/scale"), layout.scalar(grid.zero_point, f"{name}/zero_point")]
    integers = layout.emit("QuantizeLinear", [value, *constants], name=f"{name}/uint8")
    return layout.emit("DequantizeLinear", [integers, *constants], name=name)
