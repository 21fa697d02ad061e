import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from edgeresnet.cli import COMMANDS
from edgeresnet.evaluation import synthetic_images
from edgeresnet.session import Session


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(synthetic_images(32, 3, seed=3)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run_cli, command):
    result = run_cli(command, "--help")
    assert result.status == 0
    assert f"edgeresnet {command}" in result.out.split("Example", 1)[1]


def test_predict_answers_as_the_session_does(run_cli, exports, pictures):
    model = exports["int8"].path
    result = run_cli("predict", pictures, "--model", model, "--top", 3, "--format", "json")
    rows = json.loads(result.out)
    pixels = np.stack([np.asarray(Image.open(pictures / f"{i}.png")) for i in range(3)])
    session = Session(model)
    for row, logits in zip(rows, session.logits(pixels), strict=True):
        assert row["label"] == session.spec.labels[logits.argmax()]
        assert [entry["label"] for entry in row["top"]] == [session.spec.labels[i] for i in np.argsort(-logits)[:3]]
        assert row["score"] == row["top"][0]["score"]
    assert [row["image"] for row in rows] == [str(pictures / f"{i}.png") for i in range(3)]
    lines = run_cli("predict", pictures, "--model", model, "--top", 3, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == rows
    table = run_cli("predict", pictures, "--model", model).out
    assert all(row["label"] in table and f"{row['score']:.2%}" in table for row in rows)


def test_predict_reads_standard_input(run_cli, exports, pictures, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((pictures / "0.png").read_bytes())))
    (piped,) = json.loads(run_cli("predict", "-", "--model", exports["fp32"].path, "--format", "json").out)
    (named,) = json.loads(run_cli("predict", pictures / "0.png", "--model", exports["fp32"].path, "--format", "json").out)
    assert piped == {**named, "image": "-"}


def test_a_bad_image_loses_none_of_the_others(run_cli, exports, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"junk")
    result = run_cli("predict", tmp_path / "bad.png", pictures, tmp_path / "no.png", "--model", exports["int8"].path, "--format", "jsonl")
    assert result.status == 1
    assert len(result.out.splitlines()) == 3
    bad, missing, summary = result.err.splitlines()
    assert "bad.png: not an image" in bad
    assert "no.png: no such file" in missing
    assert summary == "error: 2 of 5 images could not be read"


def test_export_writes_and_names_what_to_do_next(run_cli, weights, labelled_folder, tmp_path):
    result = run_cli("export", weights, "--output", tmp_path / "out", "--data", labelled_folder, "--precision", "int8")
    assert result.status == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["resnet18-int8.onnx"]
    assert "SQNR" in result.out
    assert f"edgeresnet bench {tmp_path / 'out' / 'resnet18-int8.onnx'} --data {labelled_folder}" in result.err
    assert Session(tmp_path / "out" / "resnet18-int8.onnx").spec.accuracy.count == 30
    assert f"edgeresnet predict IMAGE --model {tmp_path / 'out' / 'resnet18-int8.onnx'}\n" in result.err
    assert f"edgeresnet export {weights} --precision fp16 " in result.err


@pytest.mark.usefixtures("exported_before")
def test_the_stock_form_is_not_what_export_advises(run_cli, weights, tmp_path):
    result = run_cli("export", weights, "--output", tmp_path, "--precision", "int8", "--precision", "int8-stock")
    assert f"predict IMAGE --model {tmp_path / 'resnet18-int8.onnx'}\n" in result.err
    alone = run_cli("export", weights, "--output", tmp_path, "--precision", "int8-stock")
    assert f"predict IMAGE --model {tmp_path / 'resnet18-int8-stock.onnx'}\n" in alone.err


@pytest.mark.usefixtures("exported_before")
def test_export_points_out_amx_where_it_is(run_cli, weights, labelled_folder, tmp_path, monkeypatch):
    for split in ("train", "test"):
        shutil.copytree(labelled_folder / "test", tmp_path / "images" / split)
    arguments = ("export", weights, "--output", tmp_path, "--data", tmp_path / "images", "--precision", "int8-static")
    monkeypatch.setattr("edgeresnet.cli.export.instruction_sets", lambda: ("avx2", "amx_int8"))
    assert "this processor has AMX: --amx gives int8-static a form for it" in run_cli(*arguments).err
    fused = run_cli(*arguments, "--amx")
    assert (fused.status, "has AMX" in fused.err) == (0, False)
    operators = json.loads(run_cli("info", tmp_path / "resnet18-int8-static.onnx", "--format", "json").out)["operators"]
    assert operators["QLinearConv"] == 19


def test_info_tells_what_is_in_the_file(run_cli, exports):
    path = exports["int8"].path
    facts = json.loads(run_cli("info", path, "--format", "json").out)
    assert facts["size_bytes"] == path.stat().st_size
    assert facts["operators"]["MatMulInteger"] == 19
    assert facts["metadata"]["edgeresnet.precision"] == "int8"
    assert facts["sha256"] in run_cli("info", path).out


def test_info_shows_metadata_that_makes_no_sense(run_cli, exports, tmp_path):
    model = onnx.load(exports["int8"].path)
    for entry in model.metadata_props:
        if entry.key == "edgeresnet.labels":
            entry.value = "[" * 20_000
    onnx.save(model, tmp_path / "model.onnx")
    result = run_cli("info", tmp_path / "model.onnx")
    assert result.status == 0
    assert "[" * 100 in result.out


def test_eval_reports_accuracy_and_agreement(run_cli, exports, weights, labelled_folder):
    arguments = ("eval", exports["fp32"].path, "--data", labelled_folder, "--original", weights)
    report = json.loads(run_cli(*arguments, "--format", "json").out)
    assert report["count"] == 30
    assert report["parity_with_original"]["agreement"] == 1.0
    assert sum(map(sum, report["confusion"])) == 30
    table = run_cli(*arguments).out
    assert f"{report['top1']:.2%}" in table
    assert "100.00% agreement" in table
    alone = json.loads(run_cli(*arguments[:4], "--no-original", "--limit", 10, "--format", "json").out)
    assert (alone["parity_with_original"], alone["count"]) == (None, 10)


def test_bench_prints_and_saves_one_record(run_cli, exports, weights, tmp_path):
    output = tmp_path / "record.json"
    models = [exports[p].path for p in ("fp32", "int8")]
    options = ("--min-time", 0, "--original", weights, "--output", output, "--threads", 1)
    result = run_cli("bench", *models, *options, "--format", "json")
    assert json.loads(result.out) == json.loads(output.read_text())
    assert json.loads(result.out)["settings"]["threads"] == 1
    table = run_cli("bench", models[0], *options, "--no-original").out
    assert "resnet18-fp32.onnx" in table
    assert "PyTorch" not in table


def test_quantize_says_what_it_did(run_cli, exports, tmp_path):
    source = tmp_path / "net-fp32.onnx"
    source.write_bytes(exports["fp32"].path.read_bytes())
    result = run_cli("quantize", source)
    assert result.status == 0, result.err
    assert "net-int8.onnx: int8, 11.3 MB (44.7)" in result.out
    assert "3 input channels: rows too short" in result.out
    assert "19 of 21 layers in INT8" in result.err
    again = run_cli("quantize", tmp_path / "net-int8.onnx", "--output", tmp_path / "twice.onnx")
    assert (again.status, again.out) == (1, "")
    assert "quantized already" in again.err
    assert run_cli("quantize", source, "--output", source).status == 2


def test_train_then_export_then_predict(run_cli, image_folder, tmp_path):
    """The whole way of a user with images of their own, in two epochs."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"validation_fraction": 0.2, "lr": 0.02, "small_sizes": [[1, 8]]}')
    options = ("--image-size", 16, "--epochs", 2, "--batch-size", 8, "--recipe", recipe, "--output", tmp_path / "run")
    trained = run_cli("train", "--data", image_folder, *options)
    assert trained.status == 0, trained.err
    assert "epoch 2/2" in trained.err
    assert "top-1 on 16 images" in trained.out
    checkpoint = tmp_path / "run" / "weights.safetensors"
    assert run_cli("export", checkpoint, "--output", tmp_path).status == 0
    (row,) = json.loads(
        run_cli("predict", image_folder / "test" / "red" / "000.png", "--model", tmp_path / "resnet18-int8.onnx", "--format", "json").out
    )
    assert row["label"] in ("red", "green")
    again = run_cli("train", "--data", image_folder, *options)
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert "holds a run already" in again.err


WRONG_CALLS = [
    (2, ("frobnicate",), "No such command 'frobnicate'"),
    (2, ("predict",), "Missing argument"),
    (2, ("predict", "x.png", "--model", "none.onnx"), "none.onnx"),
    (2, ("predict", "x.png", "--top", "0"), "--top"),
    (2, ("predict", "x.png", "--provider", "tpu"), "'cpu', 'cuda'"),
    (2, ("predict", "x.png", "--modle", "m"), "--model"),
    (2, ("predict", "x.png", "--provider-option", "device_id"), "'device_id' is not NAME=VALUE"),
    (2, ("predict", "x.png", "--provider", "auto", "--provider-option", "a=b"), "provider_options must be of a provider"),
    (1, ("predict", "{junk}", "--model", "{fp32}", "--provider-option", "a=b"), "provider 'cpu' takes no options, but was given a"),
    (2, ("export", "none.safetensors"), "none.safetensors"),
    (2, ("export", "--precision", "int4"), "'fp32', 'fp16', 'int8'"),
    (2, ("export", "--max-drop", "0.3"), "--data"),
    (2, ("export", "--precision", "int8-static"), "--data is missing"),
    (2, ("export", "--amx"), "--precision int8-static is missing"),
    (2, ("bench", "none.onnx"), "none.onnx"),
    (2, ("bench", "--batch-size", "0"), "--batch-size"),
    (2, ("bench", "--threads", "two"), "--threads"),
    (2, ("eval", "{fp32}"), "--data is missing"),
    (2, ("eval", "{fp32}", "--data", "nowhere"), "nowhere"),
    (2, ("info", "."), "directory"),
    (2, ("train",), "--data is missing"),
    (2, ("train", "--data", ".", "--lr", "-1"), "lr must be positive"),
    (2, ("train", "--data", ".", "--resume", "--epochs", "3"), "--resume"),
    (2, ("train", "--data", ".", "--resume", "--init", "bundled"), "--resume"),
    (1, ("train", "--data", ".", "--init", "missing.safetensors"), "no such weights file"),
    (1, ("train", "--data", "."), "no images found for the train split"),
    (1, ("train", "--data", ".", "--resume"), "no training state"),
    (1, ("train", "--data", ".", "--device", "cuda:7"), "CUDA devices"),
    (1, ("train", "--data", ".", "--recipe", "{junk}"), "settings of the run are broken"),
    (2, ("average", "{weights}", "--output", "x", "--data", "."), "two weights files at least"),
    (2, ("average", "{weights}", "{weights}", "--output", "x"), "--data is missing"),
    (1, ("average", "{weights}", "{junk}", "--output", "x", "--data", "."), "not a safetensors file"),
    (1, ("average", "{weights}", "{weights}", "--output", "x", "--data", "{images}"), "classes"),
    (1, ("eval", "{fp32}", "--data", "."), "no images found for the test split"),
    (1, ("eval", "{fp32}", "--data", "{images}", "--no-original"), "classes"),
    (1, ("eval", "{junk}", "--data", "{images}"), "not an ONNX model"),
    (1, ("info", "{junk}"), "not an ONNX model"),
    (1, ("export", "{junk}"), "not a safetensors file"),
    (1, ("export", "{weights}", "--output", "{junk}/folder"), "Not a directory"),
    (1, ("bench", "{junk}"), "not an ONNX model"),
    (1, ("bench", "{fp32}"), "made from other weights"),
    (1, ("bench", "{fp32}", "--provider", "cuda"), "'cuda' was asked for"),
    (1, ("eval", "{fp32}", "--data", "{images}", "--provider", "cuda"), "'cuda' was asked for"),
    (1, ("predict", "{junk}", "--model", "{fp32}", "--provider", "cuda"), "'cuda' was asked for"),
    (1, ("predict", "{empty}", "--model", "{fp32}"), "the folder has no images"),
]


@pytest.mark.parametrize(("status", "arguments", "message"), WRONG_CALLS)
def test_a_wrong_call_is_one_clear_line(run_cli, exports, weights, image_folder, tmp_path, monkeypatch, status, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    places = {"fp32": exports["fp32"].path, "weights": weights, "images": image_folder, "junk": "junk", "empty": "empty"}
    result = run_cli(*(argument.format(**places) for argument in arguments))
    assert result.status == status
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "junk"]


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(weights, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        command = [sys.executable, "-m", "edgeresnet", "export", str(weights), "--precision", "int8", "--output", str(tmp_path)]
        # On generated images: the real ones take two minutes to measure before there is anything to write.
        without_data = {name: value for name, value in os.environ.items() if name != "EDGERESNET_DATA"}
        result = subprocess.run(command, env=without_data, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert "No space left on device" in result.stderr
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_closed_pipe_is_no_traceback(exports):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    script = f"{sys.executable} -m edgeresnet info {exports['int8'].path} --format json | head -c 10"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
