import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeresnet.training.pixels import PixelClassifier
from exporters.fp32 import export_fp32
from exporters.strides import skip_needless_strides

CHANNELS, SIZE = 6, 5


def build(*, batch="n", channels=range(CHANNELS), stride=CHANNELS, counted="x", shape=(CHANNELS, 1, 1)):
    """The mean over each map, taken out again at places ``stride * image + channel``."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "sides"], ["means"]),
        helper.make_node("Reshape", ["means", "row"], ["in_a_row"]),
        helper.make_node("Shape", [counted], ["size"], start=0, end=1),
        helper.make_node("Squeeze", ["size"], ["images"]),
        helper.make_node("Range", ["zero", "images", "one"], ["counted"]),
        helper.make_node("Mul", ["counted", "stride"], ["begins"]),
        helper.make_node("Unsqueeze", ["begins", "behind"], ["unsqueezed"]),
        helper.make_node("Add", ["unsqueezed", "channels"], ["places"]),
        helper.make_node("Gather", ["in_a_row", "places"], ["taken"], axis=0),
        helper.make_node("Mul", ["x", "taken"], ["y"]),
    ]
    constants = {
        "sides": [2, 3],
        "row": [-1],
        "zero": 0,
        "one": 1,
        "stride": stride,
        "behind": list(range(1, 1 + len(shape))),
        "channels": np.reshape([*channels], (1, *shape)),
    }
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [images], [end], tensors)
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def skip(model):
    skipped = ir.from_proto(model)
    skip_needless_strides(skipped)
    return ir.to_proto(skipped)


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def takes_out(model):
    (product,) = [node for node in model.graph.node if node.output[0] == "y"]
    return product.input[1] == "taken"


def test_places_that_count_up_with_the_images_are_skipped():
    model = build()
    skipped = skip(model)
    assert not takes_out(skipped)
    images = np.random.default_rng(0).normal(size=(4, CHANNELS, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(run(skipped, images), run(model, images))


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": range(CHANNELS)[::-1]},
        {"channels": [0] * CHANNELS},
        {"stride": 1},
        {"stride": 0},
        {"counted": "means"},
        {"batch": 1},
        {"shape": (CHANNELS // 2, 2, 1)},
    ],
    ids=["turned round", "all the same", "a stride too short", "the first image's", "of another value", "of one image", "another shape"],
)
def test_other_places_are_not(settings):
    assert takes_out(skip(build(**settings)))


class Gated(nn.Module):
    """Squeeze-and-excite as torchvision writes it."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, images):
        features = self.stem(images)
        gated = features * torch.sigmoid(self.gate(nn.functional.adaptive_avg_pool2d(features, 1)))
        return self.last(gated.mean((2, 3)))


def test_an_exported_network_takes_nothing_out():
    model = PixelClassifier(Gated(), (0.5,) * 3, (0.25,) * 3).eval()
    exported = export_fp32(model, 12)
    assert not {"Gather", "Range", "Shape"} & {node.op_type for node in exported.graph.node}
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(exported, images), expected, atol=1e-5)
