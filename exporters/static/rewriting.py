"""Operators that have no integer form, written as ones that have."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from exporters.int8.layout import Layout, with_shapes
from exporters.int8.operators import first_input, name_of


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """HardSwish as a product with a HardSigmoid, and the mean of a map as a GlobalAveragePool; the answers stay the same.

    Args:
        model: A checked FP32 model, all tensors in it.
    """
    rewritten = ir.from_proto(with_shapes(model))
    layout = Layout(rewritten.graph)
    for node in list(rewritten.graph):
        layout.work_before(node)
        if node.op_type == "HardSwish" and not node.domain:
            gate = layout.emit("HardSigmoid", [first_input(node)], {"alpha": 1 / 6, "beta": 0.5}, name=f"{name_of(node)}/gate")
            _replace(layout, node, layout.emit("Mul", [first_input(node), gate], name=f"{name_of(node)}/gated"))
        elif node.op_type == "ReduceMean" and _is_over_a_map(node):
            pooled = layout.emit("GlobalAveragePool", [first_input(node)], name=f"{name_of(node)}/pooled")
            if not node.attributes.get_int("keepdims", 1):
                pooled = layout.emit("Flatten", [pooled], name=f"{name_of(node)}/flat")
            _replace(layout, node, pooled)
    common.RemoveUnusedNodesPass()(rewritten)
    return onnx.shape_inference.infer_shapes(ir.to_proto(rewritten), data_prop=True)


def _replace(layout: Layout, node: ir.Node, result: ir.Value) -> None:
    result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
    layout.replace(node.outputs[0], result)


def _is_over_a_map(node: ir.Node) -> bool:
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    shape = first_input(node).shape
    return axes is not None and shape is not None and len(shape) == 4 and sorted(np.ravel(axes.numpy()) % 4) == [2, 3]
