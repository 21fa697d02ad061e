"""Numbers of channels for which ONNX Runtime's integer convolutions are fast. Times are of one thread with AVX512-VNNI."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layout import ImageShape
from exporters.int8.operators import ELEMENTWISE, constant_array
from exporters.static.plan import is_depthwise

# Its kernel for depthwise convolutions takes so many at once, and those that are left over one by one: 28x28 pixels of 64 channels take
# 27 us, of 58 they take 68.
DEPTHWISE_BLOCK: Final = 16
# Its fastest kernel takes so many channels of a value at once, and nothing less: the 3x3 stem of an image of 224x224 pixels takes 0.44 ms
# for three channels and 0.21 for four, one of which is zero.
IMAGE_BLOCK: Final = 4
# Groups of fewer channels are joined, and all of them where there are no more than that: every group is a product by itself, and that
# kernel takes convolutions in one group. In groups of 8, 48 channels of 112x112 pixels take 0.81 ms with a stride of 2 (as one 0.22),
# 104 of 28x28 take 0.44 (as one 0.24), 208 of 14x14 take 0.22 (in 16 0.14), and 440 of 7x7 take 0.12 (in 40 0.06, as one 0.27).
GROUP_CHANNELS: Final = 16
JOINED_CHANNELS: Final = 128
# Of two values that meet channel by channel.
PAIRWISE: Final = frozenset({"Add", "Mul"})
POOLS: Final = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})


def join_groups(weights: NDArray[np.int8], groups: int) -> tuple[NDArray[np.int8], int]:
    """The weights of a convolution in fewer groups, zero where an output does not read a channel, and the number of those groups.

    Args:
        weights: (outputs, inputs of a group, ...).
        groups: Of the convolution as it is.
    """
    outputs, inputs, *kernel = weights.shape
    counts = [count for count in range(1, groups + 1) if groups % count == 0 and count * inputs >= GROUP_CHANNELS]
    together = groups if groups * inputs <= JOINED_CHANNELS else min(counts, default=groups)
    if together == 1:
        return weights, groups
    joined = np.zeros((groups // together, together, outputs // groups, together, inputs, *kernel), weights.dtype)
    parts = weights.reshape(groups // together, together, outputs // groups, inputs, *kernel)
    for place in range(together):
        joined[:, place, :, place] = parts[:, place]
    return joined.reshape(outputs, together * inputs, *kernel), groups // together


def pad_depthwise(graph: ir.Graph) -> None:
    """Give depthwise convolutions a multiple of ``DEPTHWISE_BLOCK`` channels, where all that writes or reads these can have more.

    Filters of zeros write the channels that are added, and weights of zero read them: the answers stay the same.

    Args:
        graph: Of an FP32 model, with shapes.
    """
    done: set[ir.Value] = set()
    for node in graph:
        if is_depthwise(node) and node.outputs[0] not in done:
            alike = _find_alike(node.outputs[0])
            done.update(alike)
            shapes = [ImageShape.of(value) for value in alike]
            counts = {shape.channels for shape in shapes if shape is not None}
            missing = -min(counts, default=0) % DEPTHWISE_BLOCK
            if missing and len(counts) == 1 and None not in shapes and all(_can_have_more(value, graph) for value in alike):
                _add_channels(alike, missing)


def _find_alike(value: ir.Value) -> list[ir.Value]:
    """All values that must have as many channels as one, for they meet in nodes that work on each channel by itself."""
    found = [value]
    for known in found:
        nodes = [node for node in (known.producer(), *known.consumers()) if node is not None and _is_by_channel(node)]
        met = [other for node in nodes for other in (node.outputs[0], *_operands(node))]
        found += [other for other in dict.fromkeys(met) if other not in found]
    return found


def _operands(node: ir.Node) -> list[ir.Value]:
    """What a node works on, constants aside."""
    places = node.inputs[: 2 if node.op_type in PAIRWISE else 1]
    return [value for value in places if value is not None and value.const_value is None]


def _is_by_channel(node: ir.Node) -> bool:
    if node.domain or len(node.outputs) > 1:
        return False
    if node.op_type in PAIRWISE:
        # A constant may be one number for all channels.
        return all(value is not None and (value.const_value is None or value.const_value.size == 1) for value in node.inputs)
    return node.op_type in ELEMENTWISE | POOLS or is_depthwise(node)


def _can_have_more(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether what writes a value, and all that reads it, can have one more channel of it."""
    producer = value.producer()
    if producer is None or value.is_graph_output() or not (_is_by_channel(producer) or _is_dense(producer)):
        return False
    if producer.op_type == "Conv" and not _is_own(producer, range(1, len(producer.inputs))):
        return False
    return all(
        use.node.graph is graph and (_is_by_channel(use.node) or (use.idx == 0 and _is_dense(use.node) and _is_own(use.node, [1])))
        for use in value.uses()
    )


def _is_dense(node: ir.Node) -> bool:
    return node.op_type == "Conv" and not node.domain and node.attributes.get_int("group", 1) == 1


def _is_own(node: ir.Node, places: Iterable[int]) -> bool:
    """Whether these inputs of a node are constants that nothing else reads."""
    values = [node.inputs[place] for place in places]
    return all(value is None or (constant_array(value) is not None and len(list(value.uses())) == 1) for value in values)


def _add_channels(alike: Sequence[ir.Value], missing: int) -> None:
    for value in alike:
        shape, producer = ImageShape.of(value), value.producer()
        if shape is None or producer is None or value.shape is None:
            raise ValueError(f"{value.name} is no image that a node gives")
        if is_depthwise(producer):
            producer.attributes["group"] = ir.AttrInt64("group", shape.channels + missing)
        if producer.op_type == "Conv":
            for parameter in producer.inputs[1:]:
                _pad(parameter, 0, missing)
        for node in value.consumers():
            if _is_dense(node):
                _pad(node.inputs[1], 1, missing)
        value.shape = ir.Shape([value.shape[0], shape.channels + missing, *value.shape[2:]])


def _pad(constant: ir.Value | None, axis: int, missing: int) -> None:
    array = constant_array(constant)
    if constant is None or array is None:
        return
    padded = np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
    constant.const_value, constant.shape = ir.tensor(padded, name=constant.name), ir.Shape(padded.shape)
