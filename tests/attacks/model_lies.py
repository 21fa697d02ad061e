#!/usr/bin/env python3
"""Models whose description lies, whose answers are of another shape than promised, or that want a terabyte."""

import json

import numpy as np
import onnx
from _attack import attack

from edgeresnet import Classifier
from edgeresnet.classifier import bundled_model


def described(**entries):
    """The bundled model with other metadata."""
    model = onnx.load(bundled_model())
    for entry in model.metadata_props:
        name = entry.key.removeprefix("edgeresnet.")
        if name in entries:
            entry.value = entries[name]
    return model.SerializeToString()


def model_of(nodes, initializers=()):
    """A graph of these nodes with the signature and the metadata of the bundled model."""
    bundled = onnx.load(bundled_model())
    graph = onnx.helper.make_graph(nodes, "attack", bundled.graph.input, bundled.graph.output, list(initializers))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    made.ir_version = 8
    made.metadata_props.extend(bundled.metadata_props)
    # INT8 files are given one image at a time.
    next(entry for entry in made.metadata_props if entry.key == "edgeresnet.precision").value = "fp32"
    return made.SerializeToString()


def files(folder):
    array = onnx.numpy_helper.from_array
    node = onnx.helper.make_node
    one_row = [node("Identity", ["row"], ["logits"])]
    vast = [
        node("Shape", ["images"], ["shape"]),
        node("ReduceProd", ["shape"], ["count"], keepdims=1),
        node("Mul", ["count", "factor"], ["size"]),
        node("ConstantOfShape", ["size"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        node("Add", ["row", "sum"], ["logits"]),
    ]
    row = array(np.zeros((1, 10), np.float32), "row")
    return {
        "labels.onnx": described(labels=json.dumps(["one"])),
        "many_labels.onnx": described(labels=json.dumps(["x"] * 1_000_000)),
        "size.onnx": described(image_size="[1000000000, 1000000000]"),
        "version.onnx": described(format_version="9" * 100_000),
        "nothing.onnx": described(labels="null", mean="{}", accuracy="[]"),
        "one_row.onnx": model_of(one_row, [row]),
        "terabyte.onnx": model_of(vast, [row, array(np.array([2**30], np.int64), "factor")]),
    }


def victim(path):
    with Classifier(path, threads=2) as classifier:
        for count in (1, 3):
            assert classifier.logits(np.zeros((count, 32, 32, 3), np.uint8)).shape == (count, 10)


if __name__ == "__main__":
    attack(files, victim)
