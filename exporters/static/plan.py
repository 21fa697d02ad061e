"""Which layers of a network compute in integers, and which values lie between them in 8 bits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from exporters.int8.operators import constant_array, first_input, name_of
from exporters.int8.products import LAYERS, plan_product
from exporters.int8.quantize import LayerChoice

# What belongs to a convolution or sum whose result it alone reads: on a grid that ends where it cuts off it needs no computation.
ACTIVATIONS: Final = frozenset({"Relu", "Clip"})
# ONNX Runtime fuses them with the QuantizeLinear and DequantizeLinear around them to one operator on integers. What is neither here nor
# in ``MOVERS`` it would compute in FP32 between two conversions: HardSwish, Gelu, Tanh, Elu, Sub, Div, Max, Pad, linear Resize.
ARITHMETIC: Final = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "HardSigmoid", "LeakyRelu", "Mul", "Sigmoid"})
# Those of several inputs: where one is in 8 bits, the others are converted too, which takes less than converting it back.
JOINING: Final = frozenset({"Add", "Concat", "Mul"})
# Of the name of a convolution that is no layer of the model: another operator, written as what is faster on 8 bits.
OTHER_OPERATOR: Final = "/written_as_convolution"
# They only move values, which stay on their grid.
MOVERS: Final = frozenset(
    {"DepthToSpace", "Flatten", "Gather", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Plan:
    """What becomes of a graph.

    Attributes:
        layers: Its layers with weights.
        owners: Values that get a grid, in an order in which they can be computed, each with the value whose range decides it.
    """

    layers: tuple[LayerChoice, ...]
    owners: Mapping[ir.Value, ir.Value]

    def computing(self, graph: ir.Graph) -> Iterator[ir.Node]:
        """Nodes with weights that compute in integers: of layers, and of other operators between 8 bits."""
        names = {layer.name for layer in self.layers if layer.quantized}
        for node in graph:
            if is_layer(node):
                if name_of(node) in names:
                    yield node
            elif _is_other_operator(node) and first_input(node) in self.owners and _find_result(node) in self.owners:
                yield node


def make_plan(graph: ir.Graph, left: Mapping[str, str]) -> Plan:
    """Put into integers all layers but those named, and between them what is computed of 8 bits alone.

    Args:
        graph: Of an FP32 model, with shapes.
        left: Names of layers that stay in FP32, each with the reason.
    """
    layers = tuple(_describe(node, left.get(name_of(node)) or _find_obstacle(node)) for node in graph if is_layer(node))
    chooser = _Chooser(graph, {layer.name for layer in layers if layer.quantized})
    return Plan(layers, chooser.choose())


def _find_folded(value: ir.Value) -> ir.Value:
    """What a value is before the activation that its grid makes needless, or the value itself."""
    node = value.producer()
    return first_input(node) if node is not None and _is_activation(node) and _belongs_to_activation(first_input(node)) else value


def _find_result(node: ir.Node) -> ir.Value:
    """What a node gives, behind the activation that belongs to it."""
    value = node.outputs[0]
    return next(iter(value.consumers())).outputs[0] if _belongs_to_activation(value) else value


def is_layer(node: ir.Node) -> bool:
    """Whether a node may be a layer with weights of the model."""
    return node.op_type in LAYERS and not node.domain and not _is_other_operator(node)


def _is_other_operator(node: ir.Node) -> bool:
    return node.op_type == "Conv" and OTHER_OPERATOR in (node.name or "")


def is_depthwise(node: ir.Node) -> bool:
    """Whether each output of a convolution reads a channel of its own."""
    weights = constant_array(node.inputs[1]) if node.op_type == "Conv" else None
    return weights is not None and weights.shape[1] == 1 and node.attributes.get_int("group", 1) == len(weights) > 1


class _Chooser:
    def __init__(self, graph: ir.Graph, layers: set[str]) -> None:
        self._graph, self._layers = graph, layers
        self._owners: dict[ir.Value, ir.Value] = {}
        self._leading: set[ir.Value] = set()
        for node in reversed(list(graph)):
            # What a layer in FP32 reads is not rounded for it, which may be why it was left: an EfficientNet-B0 without two harmful layers
            # had 17.5 dB with what they read in 8 bits all the same, 19.4 without.
            leads_on = not is_layer(node) and any(value in self._leading for value in node.outputs)
            if self._is_layer(node) or node.op_type == "GlobalAveragePool" or leads_on:
                self._leading.update(value for value in node.inputs if value is not None)

    def choose(self) -> dict[ir.Value, ir.Value]:
        """Grids spread from the layers, through moves and along joins, until there is no more."""
        count = -1
        while len(self._owners) != count:
            count = len(self._owners)
            for value in self._graph.inputs:
                self._consider(value)
            for node in self._graph:
                for value in node.outputs:
                    self._consider(value)
                self._convert_others(node)
        places = {value: place for place, value in enumerate(_values(self._graph))}
        # What is moved is on the grid of what it comes from, which may have been chosen later.
        return {value: self._owner(value) for value in sorted(self._owners, key=places.__getitem__)}

    def _owner(self, value: ir.Value) -> ir.Value:
        node = value.producer()
        moved = node is not None and _moves(node) and first_input(node) in self._owners
        return self._owner(first_input(node)) if moved and node is not None else value

    def _consider(self, value: ir.Value) -> None:
        if value.dtype == ir.DataType.FLOAT and not _belongs_to_activation(value) and (self._is_wanted(value) or self._is_integer(value)):
            self._owners.setdefault(value, value)

    def _is_wanted(self, value: ir.Value) -> bool:
        """Whether a layer reads it, perhaps moved."""
        return any(
            (use.idx == 0 and self._is_layer(use.node))
            or (use.idx == 0 and _moves(use.node) and any(map(self._is_wanted, use.node.outputs)))
            for use in value.uses()
        )

    def _is_integer(self, value: ir.Value) -> bool:
        """Whether it is computed of 8 bits alone."""
        node = _find_folded(value).producer()
        if node is None:
            return False
        if self._is_layer(node):
            # A linear layer's product is as quickly had in FP32, and is closer then.
            return node.op_type == "Conv"
        if _moves(node):
            return first_input(node) in self._owners
        # Of few values: to be pooled in FP32 takes no time, and is closer.
        if node.op_type == "GlobalAveragePool":
            return False
        # Behind the last layer answers are put together, of values as unlike as coordinates and scores.
        sources = [source for source in node.inputs if source is not None and source.const_value is None]
        return value in self._leading and _computes(node) and all(source in self._owners for source in sources)

    def _convert_others(self, node: ir.Node) -> None:
        sources = [source for source in node.inputs if source is not None]
        leads_on = any(value in self._leading for value in node.outputs)
        if node.op_type in JOINING and leads_on and _computes(node) and any(source in self._owners for source in sources):
            self._owners.update({source: source for source in sources if source not in self._owners})

    def _is_layer(self, node: ir.Node) -> bool:
        return is_layer(node) and name_of(node) in self._layers


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _computes(node: ir.Node) -> bool:
    """Whether there is an integer operator for it; constants among its inputs have no grid."""
    if _is_other_operator(node):
        return True
    if node.op_type not in ARITHMETIC or node.domain:
        return False
    if any(
        source is None or source.dtype != ir.DataType.FLOAT or ir.convenience.get_const_tensor(source) is not None for source in node.inputs
    ):
        return False
    if node.op_type == "HardSigmoid":
        return node.attributes.get_float("alpha", 0.2) > 0 and node.attributes.get_float("beta", 0.5) > 0
    return not node.attributes.get_int("ceil_mode", 0)


def _moves(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in MOVERS and not node.domain and (node.op_type != "MaxPool" or len(node.outputs) == 1)


def _is_activation(node: ir.Node) -> bool:
    """Whether it cuts off at zero, and perhaps at a number above."""
    if node.op_type != "Clip" or node.domain:
        return node.op_type == "Relu"
    bounds = [None if value is None else constant_array(value) for value in [*node.inputs[1:], None, None][:2]]
    least, most = bounds
    has_most = len(node.inputs) > 2 and node.inputs[2] is not None
    return least is not None and float(least.reshape(())) == 0 and (not has_most or (most is not None and float(most.reshape(())) > 0))


def _belongs_to_activation(value: ir.Value) -> bool:
    """Whether runtimes compute the value and the activation that alone reads it as one."""
    producer, readers = value.producer(), list(value.consumers())
    if producer is None or producer.op_type not in ("Conv", "Add") or value.is_graph_output():
        return False
    return len(readers) == 1 and _is_activation(readers[0])


def _find_obstacle(node: ir.Node) -> str:
    """Why a layer cannot compute in integers; empty if it can."""
    if node.op_type == "ConvTranspose":
        return "transposed: ONNX Runtime has no integer operator for it"
    if node.op_type != "Conv":
        plan = plan_product(node)
        return plan if isinstance(plan, str) else _find_obstacle_in_bias(node)
    weights = constant_array(node.inputs[1])
    if weights is None:
        return "its weights are computed as the model runs"
    if weights.ndim not in (3, 4):
        return f"windows of {weights.ndim - 2} dimensions, not 1 or 2"
    return _find_obstacle_in_bias(node)


def _find_obstacle_in_bias(node: ir.Node) -> str:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return ""
    bias = constant_array(node.inputs[2])
    if bias is None:
        return "its bias is computed as the model runs"
    return "" if bias.size in (1, *bias.shape[-1:]) else "its bias differs from row to row"


def _describe(node: ir.Node, reason: str) -> LayerChoice:
    weights = node.inputs[1]
    shape = () if weights is None or weights.shape is None else tuple(size for size in weights.shape if isinstance(size, int))
    return LayerChoice(
        name=name_of(node),
        operator=node.op_type,
        weights_name=(weights.name if weights is not None else None) or "",
        weights=shape,
        reason=reason,
        saturation_safe=not reason and not is_depthwise(node),
    )
