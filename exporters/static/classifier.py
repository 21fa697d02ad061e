"""The static INT8 form of a classifier of this project."""

from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.operators import name_of
from exporters.static.form import StaticForm
from exporters.static.plan import make_plan
from exporters.static.ranges import batches


def quantize_static_int8(model: onnx.ModelProto, images: NDArray[Any]) -> onnx.ModelProto:
    """Quantize the layers behind the first ones, with ranges from calibration images.

    Layers that read no result of another (a stem on pixels) stay in FP32.

    Args:
        model: A checked FP32 model with one input and an open batch, all tensors in it.
        images: Training images as values of that input.

    Raises:
        ExportError: If there is no convolution to quantize.
    """
    left = dict.fromkeys(_find_first_layers(model), "reads the image: closer in FP32")
    return StaticForm(model, batches(images), left).quantize(left).model


def _find_first_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that read no result of another."""
    behind: set[ir.Value] = set()
    first = []
    graph = ir.from_proto(model).graph
    computing = {name_of(node) for node in make_plan(graph, {}).computing(graph)}
    for node in graph:
        if any(value in behind for value in node.inputs if value is not None):
            behind.update(node.outputs)
        elif name_of(node) in computing:
            behind.update(node.outputs)
            first.append(name_of(node))
    return first
