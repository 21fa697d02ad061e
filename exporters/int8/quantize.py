"""The dynamic INT8 form: convolutions as products of quantized rows and int8 matrices."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgeresnet.errors import ExportError
from exporters.int8.layout import ImageShape, Layout, with_shapes
from exporters.int8.operators import keep_rows, name_of
from exporters.int8.products import LAYERS, Product, emit_product, multiply_rows, plan_product
from exporters.int8.weights import ColumnQuantizer

INTEGER_OPERATORS: Final = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DequantizeLinear"})

# Of ONNX Runtime's operators on blocks of channels, which it writes into a file that it has optimised as far as it can.
BLOCKED_DOMAIN: Final = "com.microsoft.nchwc"


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """What became of a layer that has weights.

    Attributes:
        name: Of its result in the original graph.
        operator: Conv, Gemm or MatMul.
        weights_name: Name of its weights.
        weights: Their shape.
        reason: Why it stays in FP32; empty if it computes in INT8.
        saturation_safe: Whether its weights are scaled so that they cannot saturate on any processor.
        sqnr_db: Of its result in INT8 for what it reads in FP32, where that was measured.
        fp32_ms: Time that it takes in FP32, where that was measured.
        int8_ms: In INT8, with rounding and stringing together what it reads.
    """

    name: str
    operator: str
    weights_name: str
    weights: tuple[int, ...]
    reason: str
    saturation_safe: bool
    sqnr_db: float | None = None
    fp32_ms: float | None = None
    int8_ms: float | None = None

    @property
    def quantized(self) -> bool:
        """Whether it computes in INT8."""
        return not self.reason

    @property
    def label(self) -> str:
        """What it is called: as its weights are, where they have a name."""
        return self.weights_name.removesuffix(".weight") or self.name


@dataclass(frozen=True)
class QuantizedModel:
    """A model in INT8 form and what was done to each of its layers."""

    model: onnx.ModelProto
    layers: tuple[LayerChoice, ...]

    def sharing(self) -> list[list[str]]:
        """Names of the layers in INT8, those that share their weights together."""
        groups: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.quantized:
                groups.setdefault(layer.weights_name or layer.name, []).append(layer.name)
        return list(groups.values())


def quantize_dynamic_int8(
    model: onnx.ModelProto,
    *,
    saturation_safe: Container[str] = (),
    left: Mapping[str, str] | None = None,
    quantizer: ColumnQuantizer | None = None,
) -> QuantizedModel:
    """Quantize the convolutions and linear layers of a CNN: weights now, activations as the model runs. Needs no data.

    Between the first and the last quantized convolution activations are kept as rows, (N, H*W, C), so that a convolution is a
    Gather of quantized rows and one integer matrix product, for which ONNX Runtime has fast kernels; convolutions of its own in
    INT8 it has never optimised. Only standard ONNX operators are used.

    The activations of all images of a call share one scale per layer: a user of the bare file who wants results that do not
    depend on an image's neighbours calls it with one image at a time, as ``edgeresnet.Classifier`` does.

    Args:
        model: A checked FP32 model, all tensors in it, with images of fixed height and width; the batch may be open.
        saturation_safe: Names of layers whose weights are scaled so that they cannot saturate on any processor;
            ``find_saturating_layers`` tells which need it.
        left: Names of layers that stay in FP32, each with the reason.
        quantizer: Of the weights; one that is given remembers those of earlier calls.

    Raises:
        ExportError: If the model is quantized already, or has no layer to quantize.
    """
    check_not_quantized(model)
    quantized = ir.from_proto(with_shapes(model))
    left = left or {}
    layout = Layout(quantized.graph, _find_read_in_int8(quantized.graph, left))
    quantizer = quantizer or ColumnQuantizer()
    layers: list[LayerChoice] = []
    for node in list(quantized.graph):
        layout.work_before(node)
        if node.op_type in LAYERS and not node.domain:
            plan = left.get(name_of(node)) or plan_product(node)
            safe = name_of(node) in saturation_safe
            layers.append(_describe(node, plan, safe))
            if isinstance(plan, Product):
                emit_product(layout, node, plan, saturation_safe=safe, quantizer=quantizer)
                continue
            if multiply_rows(layout, node):
                continue
        elif keep_rows(layout, node):
            continue
        _read_nchw(layout, node)
    if not any(layer.quantized for layer in layers):
        raise ExportError(
            "nothing to quantize: "
            + ("; ".join(sorted({layer.reason for layer in layers})) or "the model has no convolution and no linear layer")
        )
    layout.work_before(None)
    for value in list(quantized.graph.outputs):
        if layout.nchw(value) is not value:
            layout.replace(value, layout.nchw(value))
    common.RemoveUnusedNodesPass()(quantized)
    result = ir.to_proto(quantized)
    try:
        onnx.checker.check_model(result, full_check=True)
    # It lets through what its C++ raises; a foreign graph can have faults that ONNX Runtime passes over.
    except Exception as error:
        raise ExportError(f"the quantized graph is not valid ONNX ({' '.join(str(error).split())[:200]})") from error
    return QuantizedModel(result, tuple(layers))


def _find_read_in_int8(graph: ir.Graph, left: Container[str]) -> set[ir.Value]:
    """Images that come from a pool or a concatenation, and that convolutions in INT8 alone read, behind other such pools or at once."""
    found: set[ir.Value] = set()

    def rounds(reader: ir.Node) -> bool:
        if reader.op_type == "MaxPool" and not reader.domain:
            return reader.outputs[0] in found
        is_convolution = reader.op_type in ("Conv", "ConvTranspose") and not reader.domain
        return is_convolution and name_of(reader) not in left and isinstance(plan_product(reader), Product)

    for node in reversed(graph):
        result, readers = node.outputs[0], node.outputs[0].consumers()
        if node.op_type not in ("MaxPool", "Concat") or node.domain or len(node.outputs) > 1 or ImageShape.of(result) is None:
            continue
        if readers and not result.is_graph_output() and all(map(rounds, readers)):
            found.add(result)
    return found


def _read_nchw(layout: Layout, node: ir.Node) -> None:
    """Let a node that works on NCHW read that, and its branches too, which see the values around them."""
    parts = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]
    for reader in (node, *(inner for part in parts for inner in ir.traversal.RecursiveGraphIterator(part))):
        for i, value in enumerate(reader.inputs):
            if value is not None:
                reader.replace_input_with(i, layout.nchw(value))
    for part in parts:
        for i, value in enumerate(list(part.outputs)):
            if layout.nchw(value) is not value:
                part.outputs[i] = layout.nchw(value)


def check_not_quantized(model: onnx.ModelProto) -> None:
    """Make sure that a model has no integer operators yet, and is not written for one kind of processor.

    Raises:
        ExportError: If it has, or is.
    """
    integer = sorted({node.op_type for node in model.graph.node} & INTEGER_OPERATORS)
    if integer:
        raise ExportError(f"the model is quantized already (it has {', '.join(integer)})")
    if any(node.domain == BLOCKED_DOMAIN for node in model.graph.node):
        raise ExportError(
            f"ONNX Runtime has optimised the model for one kind of processor (it has operators of {BLOCKED_DOMAIN}); "
            "fix: give the file that it was made from"
        )


def _describe(node: ir.Node, plan: Product | str, saturation_safe: bool) -> LayerChoice:
    weights = node.inputs[1]
    return LayerChoice(
        name=name_of(node),
        operator=node.op_type,
        weights_name=(weights.name if weights is not None else None) or "",
        weights=() if weights is None or weights.shape is None else tuple(size for size in weights.shape if isinstance(size, int)),
        reason=plan if isinstance(plan, str) else "",
        saturation_safe=saturation_safe and isinstance(plan, Product),
    )
