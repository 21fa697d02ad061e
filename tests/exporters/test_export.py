import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeresnet.datasets import read_split
from edgeresnet.errors import DataError, ExportError
from edgeresnet.evaluation import compare_logits, synthetic_images, top1
from edgeresnet.session import Session
from edgeresnet.spec import PRECISIONS
from edgeresnet.training.weights import load_weights
from exporters import export
from exporters.export import export_models
from exporters.int8.quantize import QuantizedModel
from exporters.int8.saturation import quantize_without_saturation
from exporters.stock import quantize_stock_int8

PIXELS = synthetic_images(32, 48, seed=7)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-static", "int8-stock"])
def test_the_file_keeps_the_contract(exports, weights, precision):
    path = exports[precision].path
    assert path.name == f"resnet18-{precision}.onnx"
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["batch", 32, 32, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 10]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["edgeresnet.precision"] == precision
    assert metadata["edgeresnet.checkpoint_sha256"] == load_weights(weights).spec.checkpoint_sha256
    assert set(json.loads(metadata["edgeresnet.versions"])) == {"edgeresnet", "torch", "onnx", "onnxruntime"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_fp32_is_a_plain_resnet_with_its_norms_folded(exports):
    operators = [node.op_type for node in onnx.load(exports["fp32"].path).graph.node]
    assert (len(operators), operators.count("Conv"), operators.count("Add"), operators.count("Gemm")) == (52, 20, 8, 1)
    assert "BatchNormalization" not in operators


def test_fp16_stores_and_computes_everything_in_half_precision(exports):
    model = onnx.shape_inference.infer_shapes(onnx.load(exports["fp16"].path))
    assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert {kinds[node.output[0]] for node in model.graph.node if node.op_type in ("Conv", "Add", "Relu", "Gemm")} == {
        onnx.TensorProto.FLOAT16
    }
    assert exports["fp16"].size_bytes < 0.51 * exports["fp32"].size_bytes


def test_int8_stores_every_layer_in_eight_bits(exports):
    model = onnx.load(exports["int8"].path)
    operators = [node.op_type for node in model.graph.node]
    assert (operators.count("MatMulInteger"), operators.count("Conv"), operators.count("Transpose")) == (19, 1, 2)
    weights = [t for t in model.graph.initializer if len(t.dims) == 2 and np.prod(t.dims) >= 8000]
    assert len(weights) == 19
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}
    assert exports["int8"].size_bytes < 11.5e6


def test_the_stock_form_is_onnx_runtimes_own(exports):
    operators = [node.op_type for node in onnx.load(exports["int8-stock"].path).graph.node]
    assert (operators.count("ConvInteger"), operators.count("MatMulInteger")) == (20, 1)
    assert exports["int8"].parity.sqnr_db > exports["int8-stock"].parity.sqnr_db


def test_the_exports_answer_like_the_original(exports, weights):
    original = load_weights(weights).logits(PIXELS)
    fp32 = compare_logits(original, Session(exports["fp32"].path).logits(PIXELS))
    assert fp32.largest_difference < 1e-3
    assert fp32.agreement == 1.0
    fp16 = compare_logits(original, Session(exports["fp16"].path).logits(PIXELS))
    assert fp16.sqnr_db > 55
    int8 = compare_logits(original, Session(exports["int8"].path).logits(PIXELS))
    assert int8.sqnr_db > 38
    assert int8.largest_difference > fp32.largest_difference


@pytest.mark.usefixtures("exported_before")
def test_accuracy_is_measured_and_stamped(weights, labelled_folder, tmp_path):
    test = read_split(labelled_folder, "test")
    exported, _ = export_models(weights, ("fp32", "int8"), tmp_path, test=test)
    session = Session(exported.path)
    assert session.spec.accuracy.top1 == top1(session.logits(test.images), test.labels)
    assert (session.spec.accuracy.count, session.spec.accuracy.data) == (30, test.name)
    assert exported.original_accuracy.top1 == session.spec.accuracy.top1


@pytest.mark.usefixtures("exported_before")
def test_nothing_is_written_unless_everything_holds(weights, labelled_folder, tmp_path, monkeypatch):
    old = tmp_path / "resnet18-fp32.onnx"
    old.write_bytes(b"what was there before")

    def assert_untouched():
        assert [p.name for p in tmp_path.iterdir()] == [old.name]
        assert old.read_bytes() == b"what was there before"

    test = read_split(labelled_folder, "test")
    with pytest.raises(DataError, match="2 classes"):
        export_models(weights, ("fp32",), tmp_path, test=replace(test, classes=("a", "b")))
    assert_untouched()

    def quantize_badly(model, probe):
        quantized = quantize_without_saturation(model, probe).model
        for tensor in quantized.graph.initializer:
            if tensor.name.endswith("_scales"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
        return QuantizedModel(quantized, ())

    monkeypatch.setattr(export, "quantize_without_saturation", quantize_badly)
    with pytest.raises(ExportError, match=r"int8: the logits are .* dB.*nothing was written"):
        export_models(weights, ("fp32", "int8"), tmp_path)
    assert_untouched()


@pytest.mark.usefixtures("exported_before")
def test_a_drop_in_accuracy_is_a_gate(weights, labelled_folder, tmp_path, monkeypatch):
    test = read_split(labelled_folder, "test")
    right = replace(test, labels=load_weights(weights).logits(test.images).argmax(1))

    def quantize_to_nothing(model, probe):
        quantized = quantize_without_saturation(model, probe).model
        for tensor in quantized.graph.initializer:
            if tensor.name == "network.fc.weight":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
        return QuantizedModel(quantized, ())

    export_models(weights, ("fp32",), tmp_path / "kept", test=right, max_drop=0.0)
    monkeypatch.setattr(export, "quantize_without_saturation", quantize_to_nothing)
    monkeypatch.setattr(export, "MIN_SQNR_DB", dict.fromkeys(PRECISIONS, -100.0))
    with pytest.raises(ExportError, match=r"int8: top-1 falls from 100.00% to .*, by more than 0.5 points; nothing was written"):
        export_models(weights, ("int8",), tmp_path / "lost", test=right, max_drop=0.5)
    assert not (tmp_path / "lost").exists()


def test_a_model_without_layers_to_quantize_is_refused():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy")
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y]), opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    with pytest.raises(ExportError, match="no convolution or linear layer"):
        quantize_stock_int8(model)
