"""The wheel in an environment of its own with nothing but the [cpu] extra: what goes onto a device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_SIZE_MB = 260


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    install = [sys.executable, "-m", "pip", "--python", folder / "venv", "install", "--quiet", f"{wheel}[cpu]"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot install onnxruntime: {installed.stderr.strip().splitlines()[-1]}")
    return folder / "venv"


def run(environment, *arguments, **options):
    command = [environment / "bin" / arguments[0], *arguments[1:]]
    clean = {key: value for key, value in os.environ.items() if key not in ("EDGERESNET_DATA", "PYTHONPATH")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean, **options)


def test_it_is_small_and_has_neither_pytorch_nor_onnx(environment):
    packages = {path.name for path in environment.glob("lib/python*/site-packages/*")}
    assert not packages & {"torch", "torchvision", "onnx", "safetensors"}
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    assert size / 1e6 < MAX_SIZE_MB


def test_it_predicts_and_evaluates_with_the_bundled_model(environment, labelled_folder, tmp_path):
    image = labelled_folder / "test" / "cat" / "0.png"
    result = run(environment, "edgeresnet", "predict", image, "--format", "json", cwd=tmp_path)
    (row,) = json.loads(result.stdout)
    code = f"from edgeresnet import Classifier; print(Classifier().predict({str(image)!r}).label)"
    assert run(environment, "python", "-c", code, cwd=tmp_path).stdout.strip() == row["label"]
    model = ROOT / "edgeresnet" / "models" / "resnet18-int8.onnx"
    evaluated = run(environment, "edgeresnet", "eval", model, "--data", labelled_folder, "--format", "json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["count"] == 30
    assert "PyTorch is not installed, so the agreement with the original is not measured" in evaluated.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("export",), "export"), (("train", "--data", "."), "train"), (("bench",), "train")],
    ids=["export", "train", "bench"],
)
def test_what_needs_pytorch_names_the_extra(environment, tmp_path, arguments, extra):
    result = run(environment, "edgeresnet", *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"pip install 'edgeresnet[{extra}]'" in result.stderr
