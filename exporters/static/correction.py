"""Bias correction: what rounding adds to a channel of most images is taken from its bias (Nagel et al., arXiv:1906.04721, section 4.2)."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layout import Layout
from exporters.int8.operators import name_of
from exporters.int8.sensitivity import LayerEmitter
from exporters.sessions import open_session


def find_shifts(
    model: onnx.ModelProto, names: Collection[str], emit: LayerEmitter, calls: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float32]]:
    """Mean error of each channel of layers in INT8, for what they read in FP32: (outputs,) by their names.

    Where a channel hardly varies, as behind a SiLU, its rounding is the same everywhere, and large depthwise weights make a shift of it:
    68 % of one such layer's error in an EfficientNet-B0. The median of the images' means is taken, since a range cuts off what is rare
    and large: with their mean a RegNetY-400MF was wrong on nine images of ten.

    Args:
        model: A checked FP32 model with one input, with shapes.
        names: Of its layers; those that are no convolutions have no shift.
        emit: Their INT8 form.
        calls: Calibration images, as values of its input.
    """
    opened = ir.from_proto(model)
    layout = Layout(opened.graph)
    layout.work_before(None)
    means: dict[str, ir.Value] = {}
    for node in list(opened.graph):
        name, result = name_of(node), node.outputs[0]
        if node.op_type == "Conv" and name in names and result.shape is not None:
            error = layout.emit("Sub", [emit(layout, node), result], name=f"{name}/error")
            axes = layout.constant(list(range(2, len(result.shape))))
            means[name] = layout.emit("ReduceMean", [error, axes], {"keepdims": 0}, name=f"{name}/shift")
            means[name].type = ir.TensorType(ir.DataType.FLOAT)
    if not means:
        return {}
    opened.graph.outputs.extend(means.values())
    session, outputs = open_session(ir.to_proto(opened).SerializeToString()), [mean.name for mean in means.values()]
    image = session.get_inputs()[0].name
    found = zip(*(session.run(outputs, {image: call}) for call in calls), strict=True)
    return {name: np.median(np.concatenate(shifts), axis=0) for name, shifts in zip(means, found, strict=True)}
