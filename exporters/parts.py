"""Of which parts an output is put together: what its values are, as far as the graph tells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import onnx

# What gives probabilities, whose values have one scale.
PROBABILITIES: Final = frozenset({"Softmax", "Sigmoid"})
# One value in, one out, at the same place.
_ELEMENTWISE: Final = frozenset(
    {"Add", "Cast", "Clip", "Div", "Exp", "Identity", "LeakyRelu", "Mul", "Pow", "Relu", "Sigmoid", "Softmax", "Sqrt", "Sub", "Tanh"}
)
_SAME_VALUES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Parts:
    """What is known of an output.

    Attributes:
        boundaries: For an axis, where on it another part begins.
        are_probabilities: Whether all its values come from a Softmax or a Sigmoid.
        image_axes: The rows and columns of the image, where it is a map: their indices are places, not units.
    """

    boundaries: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    are_probabilities: bool = False
    image_axes: tuple[int, ...] = ()


def find_parts(model: onnx.ModelProto, height: int, width: int) -> dict[str, Parts]:
    """The parts of each output: what a Concat before it joined, seen through what moves values without mixing them.

    Args:
        model: With the shapes of its values.
        height: Of the images.
        width: Of the images.
    """
    graph = _Graph(model)
    return {
        output.name: Parts(
            {axis: tuple(sorted(places)) for axis, places in graph.boundaries(output.name).items()},
            graph.are_probabilities(output.name),
            graph.image_axes(output.name, height, width),
        )
        for output in model.graph.output
    }


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._producers = {name: node for node in model.graph.node for name in node.output}
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self._shapes = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in values}

    def are_probabilities(self, name: str) -> bool:
        node = self._producers.get(name)
        while node is not None and node.op_type in _SAME_VALUES:
            node = self._producers.get(node.input[0])
        return node is not None and node.op_type in PROBABILITIES

    def image_axes(self, name: str, height: int, width: int) -> tuple[int, ...]:
        """The two neighbouring axes of a map that have the proportions of the image, if no other two have."""
        shape = self._shapes.get(name) or []
        pairs = [
            (axis, axis + 1)
            for axis in range(1, len(shape) - 1)
            if 1 < shape[axis] <= 4 * height and shape[axis] * width == shape[axis + 1] * height
        ]
        return pairs[0] if len(shape) > 3 and len(pairs) == 1 else ()

    def boundaries(self, name: str) -> dict[int, set[int]]:
        """Where along which axis parts of a value meet."""
        node, shape = self._producers.get(name), self._shapes.get(name)
        if node is None or not shape:
            return {}
        if node.op_type == "Concat":
            return self._joined(node, len(shape))
        if node.op_type in _ELEMENTWISE:
            sources = [source for source in node.input if self._shapes.get(source) == shape]
            return _union([self.boundaries(source) for source in sources])
        if node.op_type == "Transpose":
            order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])
            below = self.boundaries(node.input[0])
            return {axis: below[source] for axis, source in enumerate(order) if source in below}
        if node.op_type in ("Flatten", "Reshape", "Squeeze", "Unsqueeze"):
            return self._reshaped(node.input[0], shape)
        return {}

    def _joined(self, node: onnx.NodeProto, rank: int) -> dict[int, set[int]]:
        axis = next(attribute.i for attribute in node.attribute if attribute.name == "axis") % rank
        found, start = [], 0
        for source in node.input:
            below = self.boundaries(source)
            found.append({other: {place + start * (other == axis) for place in places} for other, places in below.items()})
            if start:
                found.append({axis: {start}})
            length = (self._shapes.get(source) or [0] * rank)[axis]
            if length < 1:
                return {}
            start += length
        return _union(found)

    def _reshaped(self, source: str, shape: Sequence[int]) -> dict[int, set[int]]:
        """Axes that a Reshape leaves as they are: as many values before them and behind them as there were."""
        before = self._shapes.get(source) or []
        below = self.boundaries(source)
        return {
            axis: below[old]
            for axis, length in enumerate(shape)
            for old in below
            if before[old] == length and math.prod(shape[axis + 1 :]) == math.prod(before[old + 1 :]) > 0
        }


def _union(found: Sequence[Mapping[int, set[int]]]) -> dict[int, set[int]]:
    return {axis: {place for part in found for place in part.get(axis, ())} for axis in {axis for part in found for axis in part}}
