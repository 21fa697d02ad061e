"""Brings a model to a newer opset without changing what it computes."""

from typing import Final

import numpy as np
import onnx

from edgeresnet.errors import ExportError
from exporters.foreign.notation import graphs_in

# ReduceMax, ReduceMean and Pad take their axes as inputs from here on.
OPSET: Final = 18
# What onnx's checker allows a model of that opset to say of itself.
IR_VERSION: Final = 10
# Resize had one way to compute coordinates until opset 10, and says which since opset 11, where another is the default.
_COORDINATES_OPSET: Final = 11
_RESIZING: Final = frozenset({"Upsample", "Resize"})
_KEPT_DOMAIN: Final = "edgeresnet.kept"


def raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in opset 18 or, where it is newer, in its own.

    onnx's converter gives the Resize and Upsample of opset 10 and before the default coordinates of opset 11, which are others; those nodes
    are kept away from it.

    Raises:
        ExportError: If there is no way.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OPSET:
        kept = onnx.ModelProto()
        kept.CopyFrom(model)
        # Until version 3 initializers had to be inputs, and the converter believes what a file says of its version.
        kept.ir_version = IR_VERSION
        if opset < _COORDINATES_OPSET:
            _hide_resizing(kept)
        try:
            kept = onnx.version_converter.convert_version(kept, OPSET)
        # It raises RuntimeError, IndexError and what its C++ raises.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"the model has opset {opset}, and onnx cannot bring it to opset {OPSET} ({reason})") from error
        _show_resizing(kept)
        model = kept
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model


def _hide_resizing(model: onnx.ModelProto) -> None:
    for node in (node for graph in graphs_in(model.graph) for node in graph.node):
        if node.op_type in _RESIZING and not node.domain:
            node.op_type, node.domain = "Resize", _KEPT_DOMAIN
    model.opset_import.append(onnx.helper.make_opsetid(_KEPT_DOMAIN, 1))


def _show_resizing(model: onnx.ModelProto) -> None:
    graphs = [*graphs_in(model.graph)]
    nodes = [node for graph in graphs for node in graph.node]
    scales = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    scales |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant" and node.attribute[0].HasField("t")}
    for node in nodes:
        if node.domain != _KEPT_DOMAIN:
            continue
        node.domain = ""
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "scales" in attributes:  # Upsample of opset 7
            name = f"{node.output[0]}_scales"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(attributes["scales"].floats, np.float32), name))
            scales[name] = model.graph.initializer[-1]
            node.input.append(name)
        factors = scales.get(node.input[1])
        shrinks = factors is not None and bool((onnx.numpy_helper.to_array(factors) < 1).any())
        mode = attributes["mode"].s.decode() if "mode" in attributes else "nearest"
        inputs = [node.input[0], "", node.input[1]]
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)
        settings = {"mode": "linear" if mode == "bilinear" else mode, "coordinate_transformation_mode": "asymmetric"}
        if mode == "nearest":
            # As ONNX Runtime computes those opsets: the pixel before, or behind where the image shrinks.
            settings["nearest_mode"] = "ceil" if shrinks else "floor"
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in settings.items())
    kept = [entry for entry in model.opset_import if entry.domain != _KEPT_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
