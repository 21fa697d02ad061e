"""The real OpenVINO plugin. It takes processors of Intel's only: elsewhere its answers are tested on an emulated one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeresnet.machine import cpu_model

PLUGIN = "onnxruntime-ep-openvino==1.8.1"
ON_INTEL = "Intel" in cpu_model()

ANSWERS = """
import sys
from pathlib import Path
from edgeresnet.evaluation import compare_logits, synthetic_images
from edgeresnet.session import Session
from edgeresnet.target import Target

images = synthetic_images(32, 2)
for path in sys.argv[1:]:
    session = Session(Path(path), Target(provider="openvino", threads=1, exact=True))
    providers = {node.provider for node in session.placement}
    parity = compare_logits(Session(Path(path), Target(threads=1)).logits(images), session.logits(images))
    print(session.provider, *providers, session.arithmetic, parity.sqnr_db)
"""


@pytest.fixture(scope="module")
def environment(wheel_folder) -> dict[str, str]:
    """Variables that put the plugin on the path."""
    return {key: value for key, value in os.environ.items() if key != "EDGERESNET_DATA"} | {"PYTHONPATH": str(wheel_folder(PLUGIN))}


def python(environment, *arguments, emulated=False):
    command = [shutil.which("qemu-x86_64-static"), "-cpu", "Haswell"] if emulated else []
    command += [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)


def test_it_runs_whole_models_and_agrees_with_the_cpu(environment, exports):
    if not ON_INTEL and shutil.which("qemu-x86_64-static") is None:
        pytest.skip("no Intel processor, and qemu-user-static is not installed")
    paths = [str(exports[precision].path) for precision in ("fp32", "int8-static")]
    result = python(environment, "-c", ANSWERS, *paths, emulated=not ON_INTEL)
    assert result.returncode == 0, result.stderr
    for line, least_db in zip(result.stdout.splitlines(), (100, 25), strict=True):  # integer kernels may round halves differently
        *words, sqnr_db = line.split()
        assert words == ["OpenVINOExecutionProvider", "OpenVINOExecutionProvider", "None"]
        assert float(sqnr_db) > least_db


@pytest.mark.skipif(ON_INTEL, reason="OpenVINO takes this processor")
def test_on_another_processor_it_says_so(environment, exports, labelled_folder):
    image = labelled_folder / "test" / "cat" / "0.png"
    result = python(environment, "-m", "edgeresnet", "predict", image, "--model", exports["fp32"].path, "--provider", "openvino")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    for part in ("provider 'openvino' was asked for", "wants one of Intel's", cpu_model(), "--provider cpu"):
        assert part in result.stderr
    doctor = python(environment, "-m", "edgeresnet", "doctor")
    assert doctor.returncode == 1
    assert "broken  provider openvino" in doctor.stdout
