"""What an export must hold to be written, at the edge of each gate, and what is said of it in the file."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ExportError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.modelfile import parse_model
from edgeresnet.session import Session
from edgeresnet.spec import Accuracy, ImageInput, ModelSpec
from edgeresnet.training.weights import load_weights
from exporters import export
from exporters.export import export_models
from exporters.int8.quantize import QuantizedModel
from exporters.metadata import stamp

SIZE = 32
IMAGES = synthetic_images(SIZE, 32, seed=8)


@pytest.fixture(scope="module")
def original(weights):
    """The original's answers."""
    return load_weights(weights).logits(IMAGES)


@pytest.fixture(scope="module")
def answered(original):
    """Images whose labels are the original's answers: it is right on all of them."""
    return LabelledImages(images=IMAGES, labels=original.argmax(1), classes=CIFAR10_LABELS, name="answered images")


def shift(model, offset):
    """A model whose logits are all moved by the same number."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    (bias,) = [tensor for tensor in moved.graph.initializer if tensor.name == "network.fc.bias"]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(offset), bias.name))
    return moved


@pytest.fixture
def made(exported_before, monkeypatch):
    """Puts models in the place of what the export would make."""

    def put(precision, model):
        places = {
            "fp32": ("export_fp32", lambda *_: model),
            "fp16": ("convert_to_fp16", lambda _: model),
            "int8": ("quantize_without_saturation", lambda *_: QuantizedModel(model, ())),
            "int8-static": ("quantize_static_int8", lambda *_: model),
            "int8-stock": ("quantize_stock_int8", lambda _: model),
        }
        monkeypatch.setattr(export, *places[precision])

    return put


@pytest.mark.parametrize(("share", "holds"), [(0.8e-4, True), (1.3e-4, False)])
def test_fp32_must_be_within_a_ten_thousandth_of_the_largest_logit(made, weights, exports, original, answered, tmp_path, share, holds):
    largest = np.abs(original).max()
    offset = share * largest
    made("fp32", shift(onnx.load(exports["fp32"].path), offset))
    if holds:
        (exported,) = export_models(weights, ["fp32"], tmp_path, test=answered)
        assert exported.parity.largest_difference == pytest.approx(float(offset), abs=0.05e-4 * float(largest))
    else:
        with pytest.raises(
            ExportError,
            match=rf"fp32: a logit differs from the original's by [\d.]+, more than 0.0001 of the largest, {largest:.3g}",
        ):
            export_models(weights, ["fp32"], tmp_path, test=answered)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("margin_db", [0.5, -0.5])
@pytest.mark.parametrize(("precision", "gate_db"), [("fp16", 30), ("int8", 20), ("int8-static", 20), ("int8-stock", 20)])
def test_other_precisions_must_be_as_many_decibels_from_the_original(
    made, weights, exports, original, answered, tmp_path, precision, gate_db, margin_db
):
    """Moving every logit by the same number is noise of known power."""
    offset = np.sqrt(np.square(original).mean() / 10 ** ((gate_db + margin_db) / 10))
    made(precision, shift(onnx.load(exports["fp32"].path), offset))
    arguments = {"test": answered, "calibration": IMAGES}
    if margin_db > 0:
        (exported,) = export_models(weights, [precision], tmp_path, **arguments)
        assert exported.parity.sqnr_db == pytest.approx(gate_db + margin_db, abs=0.1)
    else:
        with pytest.raises(ExportError, match=rf"{precision}: the logits are {gate_db - 0.5} dB from .*at least {gate_db} dB are needed"):
            export_models(weights, [precision], tmp_path, **arguments)


def test_a_file_that_errs_says_its_own_accuracy_and_drop(made, weights, astray, original, answered, tmp_path, monkeypatch):
    made("int8", onnx.load(astray))
    monkeypatch.setattr(export, "MIN_SQNR_DB", {"int8": 0.0})
    answers = Session(astray).logits(IMAGES)
    right = float((answers.argmax(1) == original.argmax(1)).mean())
    assert 0.3 < right < 0.95
    fp32, int8 = export_models(weights, ["fp32", "int8"], tmp_path, test=answered, max_drop=100 * (1 - right) + 0.01)
    among_five = float((np.argsort(-answers, axis=1)[:, :5] == original.argmax(1)[:, None]).any(1).mean())
    assert fp32.spec.accuracy == Accuracy(top1=1.0, top5=1.0, count=32, data="answered images")
    assert int8.spec.accuracy == Accuracy(top1=pytest.approx(right), top5=pytest.approx(among_five), count=32, data="answered images")
    assert Session(int8.path).spec == int8.spec
    for exported in (fp32, int8):
        assert exported.original_accuracy.top1 == 1.0
        assert (exported.compared_on, exported.size_bytes) == ("answered images", exported.path.stat().st_size)
    assert int8.parity.agreement == pytest.approx(right)
    assert int8.parity.largest_difference == pytest.approx(np.abs(answers - original).max(), rel=1e-4)
    assert int8.parity.sqnr_db == pytest.approx(10 * np.log10(np.square(original).mean() / np.square(answers - original).mean()), abs=0.01)
    with pytest.raises(
        ExportError, match=rf"int8: top-1 falls from 100\.00% to {right:.2%}, by more than [\d.]+ points; nothing was written"
    ):
        export_models(weights, ["int8"], tmp_path / "new", test=answered, max_drop=100 * (1 - right) - 0.01)


def test_without_data_synthetic_images_are_compared_and_no_accuracy_is_claimed(made, weights, tmp_path):
    (exported,) = export_models(weights, ["fp32"], tmp_path)
    assert (exported.compared_on, exported.parity.count) == ("synthetic images", 64)
    assert (exported.spec.accuracy, exported.original_accuracy, Session(exported.path).spec.accuracy) == (None, None, None)


def test_what_an_exporter_left_behind_is_removed_and_the_description_is_alone():
    """Source lines and paths of the exporting machine."""
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    tensor = numpy_helper.from_array(np.float32([1]), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"], doc_string="line 7 of /home/somebody/net.py")
    end = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [value], [end], [tensor], doc_string="/home/somebody", value_info=[value])
    model = helper.make_model(graph, doc_string="made by somebody")
    helper.set_model_props(model, {"author": "somebody"})
    for part in (model.graph, *(getattr(model.graph, name)[0] for name in ("node", "input", "output", "initializer", "value_info"))):
        part.metadata_props.add(key="trace", value="somebody")
        part.doc_string = "somebody"
    spec = ModelSpec(
        labels=("a",),
        input=ImageInput.of(SIZE),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        architecture="none",
        precision="fp32",
        checkpoint_sha256="00",
    )
    content = stamp(model, spec)
    assert b"somebody" not in content
    assert parse_model(content).metadata == spec.to_metadata()
    assert len(model.metadata_props) == 1, "what was given stays as it was"
