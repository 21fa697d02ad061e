import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeresnet.errors import ExportError, ModelFormatError, ModelNotFoundError
from edgeresnet.evaluation import compare_logits
from edgeresnet.session import Session
from exporters import attempt
from exporters.quantize import quantize_file


def save(module, shape, path, batch=None):
    dynamic = ({0: torch.export.Dim("batch")},) if batch is None else None
    program = torch.onnx.export(
        module.eval(), (torch.zeros(batch or 2, *shape),), dynamo=True, external_data=False, dynamic_shapes=dynamic, verbose=False
    )
    model = program.model_proto
    onnx.helper.set_model_props(model, {"owner": "somebody"})
    onnx.save(model, path)
    return path


def convolutions(channels=64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            *(part for _ in range(3) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, 7),
        )


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_any_cnn_becomes_int8_and_keeps_its_answers(tmp_path, batch):
    source = save(convolutions(), (3, 24, 32), tmp_path / "any.onnx", batch)
    result = quantize_file(source, tmp_path / "small.onnx")
    assert result.path.stat().st_size == result.size_bytes < 0.35 * result.original_size_bytes
    assert [layer.quantized for layer in result.layers] == [False, True, True, True, False]
    assert [layer.weights_name for layer in result.layers][:2] == ["0.weight", "2.weight"]
    assert result.proof.sqnr_db > 25
    assert result.proof.worst.whole_db > 35
    assert [output.output for output in result.proof.outputs] == [onnx.load(source).graph.output[0].name]
    assert result.speedup > 1
    # A single layer's times say nothing certain where others have the cores; the race does.
    assert all((layer.sqnr_db or 0) > 25 and min(layer.fp32_ms, layer.int8_ms) > 0 for layer in result.layers if layer.quantized)
    model = onnx.load(result.path)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"owner": "somebody"}


def test_a_model_of_this_project_keeps_its_description(exports, tmp_path):
    result = quantize_file(exports["fp32"].path, tmp_path / "again.onnx")
    session = Session(result.path)
    assert session.spec.precision == "int8"
    assert session.spec.accuracy is None
    assert session.spec.checkpoint_sha256 == exports["fp32"].spec.checkpoint_sha256
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    answers, exported = session.logits(pixels), Session(exports["int8"].path).logits(pixels)
    if all(layer.quantized or layer.fp32_ms is None or "pay" not in layer.reason for layer in result.layers):
        np.testing.assert_array_equal(answers, exported)
    # Where others have the cores, a layer may not have paid, and is in FP32.
    assert compare_logits(exported, answers).sqnr_db > 25


def test_a_wrong_or_a_slow_result_is_not_written(tmp_path, monkeypatch):
    source = save(convolutions(), (3, 24, 24), tmp_path / "any.onnx")
    with pytest.raises(ExportError, match=r"the quantized outputs are .* dB.*at least 90 dB.*nothing was written; fix: .*--min-db"):
        quantize_file(source, tmp_path / "small.onnx", least_db=90)
    monkeypatch.setattr(attempt, "LEAST_SPEEDUP", 1000)
    # By how much the race is lost or won depends on the processor.
    verdict = r"INT8 (is slower|may be slower|is hardly faster) here \(.* to .*x\)"
    with pytest.raises(ExportError, match=rf"{verdict}, .* and outputs .* dB from the original's: .* against .* ms; nothing was written"):
        quantize_file(source, tmp_path / "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["any.onnx"]


def test_files_that_cannot_be_quantized_are_refused(tmp_path, exports):
    target = tmp_path / "out.onnx"
    with pytest.raises(ModelNotFoundError):
        quantize_file(tmp_path / "none.onnx", target)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelFormatError, match=r"junk.onnx: not a valid ONNX model"):
        quantize_file(tmp_path / "junk.onnx", target)
    with pytest.raises(ExportError, match="quantized already"):
        quantize_file(exports["int8"].path, target)
    with pytest.raises(ExportError, match="no input of the model takes images"):
        quantize_file(save(nn.Linear(8, 4), (8,), tmp_path / "flat.onnx"), target)
    assert not target.exists()
