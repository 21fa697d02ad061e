"""The shape of the project: who imports whom, what is loaded when, what is in the wheel."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING_SIDE = {"torch", "torchvision", "onnx", "onnxscript", "safetensors", "matplotlib", "exporters", "benchmarks"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_import_directions_hold():
    result = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_importing_the_package_loads_next_to_nothing():
    assert not loaded_by("import edgeresnet") & (TRAINING_SIDE | {"onnxruntime", "numpy", "PIL", "click", "rich"})


def test_help_loads_neither_runtime_nor_training():
    code = "from edgeresnet.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & (TRAINING_SIDE | {"onnxruntime", "numpy", "PIL", "rich"})


def test_classifying_loads_neither_pytorch_nor_onnx(exports):
    code = f"import edgeresnet\nedgeresnet.Classifier({str(exports['int8'].path)!r}).warmup()"
    loaded = loaded_by(code)
    assert not loaded & TRAINING_SIDE
    assert "onnxruntime" in loaded


@pytest.mark.parametrize("command", ["predict", "info", "eval", "bench", "compare", "report", "tune", "doctor"])
def test_commands_of_the_device_start_without_pytorch(command):
    code = f"from edgeresnet.cli import main\ntry: main(['{command}', '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & {"torch", "torchvision", "onnx", "onnxruntime", "rich"}


@pytest.mark.parametrize("form", ["of a checkout", "released"])
def test_the_wheel_holds_exactly_these_files(tmp_path, form):
    """A released one is made of the source archive, which leaves out what no device needs."""
    direct = ["--wheel"] if form == "of a checkout" else []
    command = [sys.executable, "-m", "build", *direct, "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set((ROOT / "tests" / "wheel_files.txt").read_text().split())
    if form == "released":
        expected.remove("edgeresnet/models/resnet18-cifar10.safetensors")
        assert wheel.stat().st_size < 11e6
    assert found == expected
