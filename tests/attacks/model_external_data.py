#!/usr/bin/env python3
"""Models that have the runtime read other files of the device: in a weight, in a constant, in a branch, in a function."""

import numpy as np
import onnx
from _attack import attack

from edgeresnet import Classifier
from edgeresnet.classifier import bundled_model
from edgeresnet.modelfile import parse_model


def elsewhere(tensor):
    """Have a tensor's content lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", "../../../../../../../../etc/passwd"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(name):
    tensor = elsewhere(onnx.TensorProto(name="secret", data_type=onnx.TensorProto.UINT8, dims=[16]))
    return onnx.helper.make_node("Constant", [], [name], name=name, value=tensor)


def files(folder):
    weight = onnx.load(bundled_model())
    elsewhere(weight.graph.initializer[0])
    in_node = onnx.load(bundled_model())
    in_node.graph.node.append(constant("stolen"))
    branch = onnx.helper.make_graph([constant("inner")], "branch", [], [onnx.helper.make_tensor_value_info("inner", 2, [16])])
    in_branch = onnx.load(bundled_model())
    in_branch.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    in_branch.graph.node.append(onnx.helper.make_node("If", ["yes"], ["stolen"], then_branch=branch, else_branch=branch))
    in_function = onnx.load(bundled_model())
    in_function.functions.append(
        onnx.helper.make_function("local", "Steal", [], ["stolen"], [constant("stolen")], [onnx.helper.make_opsetid("", 17)])
    )
    models = {"weight.onnx": weight, "node.onnx": in_node, "branch.onnx": in_branch, "function.onnx": in_function}
    return {name: model.SerializeToString() for name, model in models.items()}


def victim(path):
    # ONNX Runtime refuses some of them by itself; it shall not come to that.
    assert parse_model(path.read_bytes()).has_external_data
    Classifier(path)
    raise AssertionError("a file with data elsewhere was opened")


if __name__ == "__main__":
    attack(files, victim)
