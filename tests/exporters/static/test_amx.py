from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeresnet.evaluation import synthetic_images
from edgeresnet.session import Session
from edgeresnet.spec import INPUT_NAME, LOGITS
from exporters.export import export_models


@pytest.fixture(scope="module")
def fused(weights, tmp_path_factory) -> onnx.ModelProto:
    """Exported like the portable form of ``exports``."""
    folder = tmp_path_factory.mktemp("amx")
    (exported,) = export_models(weights, ["int8-static"], folder, calibration=synthetic_images(32, 64, seed=3), for_amx=True)
    return onnx.load(exported.path)


def test_answers_are_those_of_the_portable_form(exports, fused):
    images = synthetic_images(32, 8, seed=3)
    session = Session(fused.SerializeToString())
    expected = Session(exports["int8-static"].path).logits(images)
    np.testing.assert_allclose(session.logits(images), expected, rtol=1e-5, atol=1e-5)
    bare = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    (together,) = bare.run([LOGITS], {INPUT_NAME: images})
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-5)


def test_every_convolution_but_the_stem_has_zero_points_that_loading_does_not_know(fused, optimized):
    graph = optimized(fused.SerializeToString())
    constants = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "QLinearConv"]
    assert len(convolutions) == 19
    assert not constants & {node.input[index] for node in convolutions for index in (2, 7)}
    assert Counter(node.op_type for node in graph.node)["QLinearAdd"] == 8


def test_the_file_has_standard_operators_only(fused):
    assert {node.domain for node in fused.graph.node} == {""}
    assert Counter(node.op_type for node in fused.graph.node)["Conv"] == 1
