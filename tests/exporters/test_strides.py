import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto
from torch import nn

from edgeresnet.training.pixels import PixelClassifier
from exporters.fp32 import export_fp32
from exporters.strides import skip_needless_strides

CHANNELS, SIZE = 6, 5


@pytest.fixture(scope="module")
def build(graphs):
    """The mean over each map, taken out again at places ``stride * image + channel``."""

    def make(*, batch="n", channels=range(CHANNELS), stride=CHANNELS, counted="x", shape=(CHANNELS, 1, 1), begins="begins"):
        nodes = [
            graphs.node("ReduceMean", ["x", "sides"], ["means"]),
            graphs.node("Reshape", ["means", "row"], ["in_a_row"]),
            graphs.node("Shape", [counted], ["size"], start=0, end=1),
            graphs.node("Squeeze", ["size"], ["images"]),
            graphs.node("Range", ["zero", "images", "one"], ["counted"]),
            graphs.node("Mul", ["counted", "stride"], ["begins"]),
            graphs.node("Reshape", ["x", "row"], ["pixels"]),
            graphs.node("Gather", ["pixels", "zero"], ["pixel"], axis=0),
            graphs.node("Cast", ["pixel"], ["number"], to=TensorProto.INT64),
            graphs.node("Add", ["begins", "number"], ["begins_and_pixel"]),
            graphs.node("Unsqueeze", [begins, "behind"], ["unsqueezed"]),
            graphs.node("Add", ["unsqueezed", "channels"], ["places"]),
            graphs.node("Gather", ["in_a_row", "places"], ["taken"], axis=0),
            graphs.node("Mul", ["x", "taken"], ["y"]),
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
        tensors = [graphs.tensor(name, value, np.int64) for name, value in constants.items()]
        inputs, outputs = {"x": (TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE])}, {"y": (TensorProto.FLOAT, None)}
        return onnx.shape_inference.infer_shapes(graphs.model(nodes, tensors, inputs=inputs, outputs=outputs))

    return make


def skip(model):
    skipped = ir.from_proto(model)
    skip_needless_strides(skipped)
    return ir.to_proto(skipped)


def takes_out(model):
    (product,) = [node for node in model.graph.node if node.output[0] == "y"]
    return product.input[1] == "taken"


def test_places_that_count_up_with_the_images_are_skipped(build, graphs):
    model = build()
    skipped = skip(model)
    assert not takes_out(skipped)
    images = np.random.default_rng(0).normal(size=(4, CHANNELS, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(graphs.run(skipped, x=images)["y"], graphs.run(model, x=images)["y"])


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
        {"begins": "begins_and_pixel"},
    ],
    ids=[
        "turned round",
        "all the same",
        "a stride too short",
        "the first image's",
        "of another value",
        "of one image",
        "another shape",
        "moved by a pixel, which is 0 in a black image",
    ],
)
def test_other_places_are_not(build, settings):
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


def test_an_exported_network_takes_nothing_out(graphs):
    model = PixelClassifier(Gated(), (0.5,) * 3, (0.25,) * 3).eval()
    exported = export_fp32(model, 12)
    assert not {"Gather", "Range", "Shape"} & {node.op_type for node in exported.graph.node}
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(graphs.run(exported, images=images)["logits"], expected, atol=1e-5)
