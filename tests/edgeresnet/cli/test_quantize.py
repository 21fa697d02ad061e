import json

import pytest

from edgeresnet.session import Session


def test_sizes_and_inputs_are_read_from_the_command_line(run_cli, tmp_path):
    model = tmp_path / "junk.onnx"
    model.write_bytes(b"junk")
    for wrong, complaint in (
        (("--size", "48x"), "'48x' is not HEIGHTxWIDTH in pixels, such as 224x224"),
        (("--size", "0x48"), "is not HEIGHTxWIDTH"),
        (("--input", "gain"), "'gain' is not NAME=VALUE"),
        (("--max-drop", "1"), "--max-drop needs --data"),
        (("--data", tmp_path), "--data and --limit need --max-drop"),
        (("--limit", "9"), "--data and --limit need --max-drop"),
    ):
        result = run_cli("quantize", model, *wrong)
        assert result.status == 2
        assert complaint in result.err
    result = run_cli("quantize", model, "--size", "48x64", "--input", "a=b=1")
    assert (result.status, result.out) == (1, "")
    assert "not a valid ONNX model" in result.err


def test_a_budget_of_top_1_is_kept(run_cli, exports, labelled_folder, tmp_path):
    """The network is untrained, so its top-1 is chance; nothing may be lost all the same."""
    source = tmp_path / "net.onnx"
    source.write_bytes(exports["fp32"].path.read_bytes())
    result = run_cli("quantize", source, "--data", labelled_folder, "--max-drop", 0, "--format", "json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["accuracy"]["count"] == 30
    original = json.loads(run_cli("eval", source, "--data", labelled_folder, "--no-original", "--format", "json").out)
    assert (report["precision"], report["others"][0]["reason"]) == ("int8", "not tried: it needs --images")
    quantized = json.loads(run_cli("eval", tmp_path / "net-int8.onnx", "--data", labelled_folder, "--no-original", "--format", "json").out)
    assert quantized["top1"] == pytest.approx(report["accuracy"]["top1"])
    assert quantized["top1"] >= original["top1"]


@pytest.mark.parametrize("given", [False, True])
def test_the_static_form_says_what_it_was_calibrated_on(run_cli, exports, labelled_folder, tmp_path, given):
    source = tmp_path / "net-fp32.onnx"
    source.write_bytes(exports["fp32"].path.read_bytes())
    images = ("--images", labelled_folder) if given else ()
    result = run_cli("quantize", source, "--static", *images, "--format", "json")
    assert result.status == 0, result.err
    report = json.loads(result.out)
    assert report["path"] == str(tmp_path / "net-int8-static.onnx")
    if given:
        assert report["calibrated_on"].endswith(f"images of {labelled_folder}")
        assert f"calibrated on {report['calibrated_on']}" in result.err
    else:
        assert "calibrated on generated images: give --images" in result.err
    assert Session(tmp_path / "net-int8-static.onnx").spec.precision == "int8-static"
