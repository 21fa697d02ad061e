"""What a user of the real onnxruntime-gpu wheel sees on a machine without a GPU."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

GPU_WHEEL = "onnxruntime-gpu==1.31.1"


@pytest.fixture(scope="module")
def gpu_site(wheel_folder) -> Path:
    """A folder with onnxruntime-gpu."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    return wheel_folder(GPU_WHEEL)


def run(gpu_site, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "EDGERESNET_DATA"} | {"PYTHONPATH": str(gpu_site)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["predict", "eval", "bench", "api"])
def test_asking_for_cuda_without_a_gpu_is_one_clear_error(gpu_site, exports, labelled_folder, command):
    model = str(exports["fp32"].path)
    arguments = {
        "predict": ["-m", "edgeresnet", "predict", str(labelled_folder / "test" / "cat" / "0.png"), "--model", model, "--provider", "cuda"],
        "eval": ["-m", "edgeresnet", "eval", model, "--data", str(labelled_folder), "--no-original", "--provider", "cuda"],
        "bench": ["-m", "edgeresnet", "bench", model, "--no-original", "--provider", "cuda"],
        "api": ["-c", f"import edgeresnet; edgeresnet.Classifier({model!r}, provider='cuda')"],
    }[command]
    started = time.monotonic()
    result = run(gpu_site, *arguments)
    assert time.monotonic() - started < 10
    assert result.returncode == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    for part in (
        "provider 'cuda' was asked for",
        "libcublasLt.so.13: cannot open",
        "which comes with nvidia-cublas",
        "onnxruntime 1.31.1 with",
        "CUDAExecutionProvider",
        "nvidia-smi",
        "edgeresnet[gpu]",
    ):
        assert part in last
    if command == "api":
        assert "ProviderError" in last
    else:
        assert result.stderr.count("\n") == 1


def test_auto_runs_on_the_cpu_and_tells(gpu_site, labelled_folder):
    image = str(labelled_folder / "test" / "cat" / "0.png")
    result = run(gpu_site, "-m", "edgeresnet", "predict", image, "--provider", "auto")
    assert result.returncode == 0
    notes = result.stderr.splitlines()
    assert len(notes) == 3
    assert "libcublasLt.so.13" in notes[0]
    assert notes[-1] == "note: running on CPUExecutionProvider"


def test_the_doctor_names_the_wheel_that_counts_and_every_missing_library(gpu_site):
    result = run(gpu_site, "-m", "edgeresnet", "doctor", "--format", "json")
    assert result.returncode == 1
    findings = {finding["subject"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["provider cpu"]["status"] == "ok"
    # It lies in a folder of its own, before that of the CPU's: nothing is overwritten, as on a GPU machine that reaches no registry.
    assert findings["ONNX Runtime"]["status"] == "ok"
    assert f"onnxruntime-gpu 1.31.1 (of these the one in {gpu_site}" in findings["ONNX Runtime"]["found"]
    assert findings["provider cuda"]["status"] == findings["NVIDIA driver"]["status"] == "broken"
    for part in ("libcublas.so.13 (comes with nvidia-cublas)", "libcurand.so.10 (comes with nvidia-curand)"):
        assert part in findings["CUDA libraries"]["found"]
