"""Puts the way from raw pixels into a foreign model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from edgeresnet.images import Pixels
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import INPUT_NAME
from exporters.foreign.inputs import NCHW, ImageTensor
from exporters.int8.layout import add_initializer


@dataclass(frozen=True, kw_only=True)
class PixelPath:
    """How raw RGB or grey pixels become what a foreign model reads.

    Attributes:
        image: The model's input.
        preprocessing: Mean and standard deviation; of no meaning for uint8.
        bgr: Blue comes first.
    """

    image: ImageTensor
    preprocessing: Preprocessing
    bgr: bool

    def __call__(self, pixels: Pixels) -> NDArray[Any]:
        """By plain array arithmetic: uint8 (N, height, width, channels) to values of the model's input."""
        values: NDArray[Any] = pixels
        if self.image.element_type != "uint8":
            values = (pixels / 255 - self.preprocessing.mean) / self.preprocessing.std
        return self.image.arrange(values[..., ::-1] if self.bgr else values)


def take_pixels(plain: onnx.ModelProto, path: PixelPath, output: str) -> onnx.ModelProto:
    """The model with raw pixels as its input, ``INPUT_NAME``, and a row of float32 for each image as its output.

    Args:
        plain: With ``path.image`` as its only input, and one output.
        path: From pixels to that.
        output: Name of the output.
    """
    model = ir.from_proto(plain)
    graph = model.graph
    (foreign,) = graph.inputs
    _make_way(graph, {INPUT_NAME, output})
    batch = foreign.shape[0] if foreign.shape is not None else None
    shape = ir.Shape([batch if isinstance(batch, int) else "batch", *path.preprocessing.input.shape])
    pixels = ir.Value(name=INPUT_NAME, shape=shape, type=ir.TensorType(ir.DataType.UINT8))
    value = pixels
    nodes: list[ir.Node] = []
    for operator, constant, attributes in _steps(path):
        others = [] if constant is None else [add_initializer(graph, constant, f"{INPUT_NAME}_{operator.lower()}_by")]
        node = ir.node(operator, [value, *others], attributes)
        value = node.outputs[0]
        value.name = f"{INPUT_NAME}_{len(nodes)}"
        nodes.append(node)
    foreign.replace_all_uses_with(value)
    graph.inputs[:] = [pixels]
    graph.insert_before(graph[0], nodes)
    _end_in_rows(graph, output)
    result = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    onnx.checker.check_model(result, full_check=True)
    return result


def _steps(path: PixelPath) -> list[tuple[str, NDArray[Any] | None, dict[str, Any]]]:
    """Operators with their constants and attributes."""
    image = path.image
    channels = (-1, 1, 1) if image.layout == NCHW else (-1,)
    steps: list[tuple[str, NDArray[Any] | None, dict[str, Any]]] = []
    if path.bgr:
        steps.append(("Gather", np.array([2, 1, 0], np.int64), {"axis": 3}))
    if image.layout == NCHW:
        steps.append(("Transpose", None, {"perm": [0, 3, 1, 2]}))
    if image.element_type == "uint8":
        return steps
    mean, std = (
        np.array(values[:: -1 if path.bgr else 1]).reshape(channels) for values in (path.preprocessing.mean, path.preprocessing.std)
    )
    steps.append(("Cast", None, {"to": int(ir.DataType.FLOAT)}))
    steps.append(("Sub", (255 * mean).astype(np.float32), {}))
    steps.append(("Mul", (1 / (255 * std)).astype(np.float32), {}))
    if image.element_type == "float16":
        steps.append(("Cast", None, {"to": int(ir.DataType.FLOAT16)}))
    return steps


def _make_way(graph: ir.Graph, names: set[str]) -> None:
    """Give other names to the values of a graph that have one of these."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.name in names:
            value.name = f"{value.name}_foreign"


def _end_in_rows(graph: ir.Graph, output: str) -> None:
    """Let the graph's output be float32 (N, classes) under its name."""
    (scores,) = graph.outputs
    if scores.is_graph_input() or scores.is_initializer():
        raise ExportError("the output is an input or a constant: the model computes nothing")
    if scores.shape is None or len(scores.shape) != 2:
        scores = _append(graph, ir.node("Flatten", [scores], {"axis": 1}), scores.dtype or ir.DataType.FLOAT)
    if scores.dtype != ir.DataType.FLOAT:
        scores = _append(graph, ir.node("Cast", [scores], {"to": int(ir.DataType.FLOAT)}), ir.DataType.FLOAT)
    scores.name = output
    graph.outputs[:] = [scores]


def _append(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> ir.Value:
    graph.append(node)
    node.outputs[0].dtype = dtype
    return node.outputs[0]
