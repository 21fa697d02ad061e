import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from benchmarks.studies.litert import command

INSTALLED = find_spec("litert_torch") is not None


@pytest.fixture
def arguments(exports, weights) -> list[str]:
    models = [str(exports[precision].path) for precision in ("fp32", "int8")]
    return [*models, "--original", str(weights), "--limit", "8", "--seconds", "0"]


@pytest.mark.skipif(not INSTALLED, reason="LiteRT's converter is not installed: pip install 'edgeresnet[litert]'")
def test_both_runtimes_are_held_against_the_original(arguments):
    # As a process: the converter prints on its own.
    result = subprocess.run([sys.executable, "-m", "benchmarks.studies.litert", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    found = {(model["runtime"], model["precision"]): model for model in record["results"]}
    assert list(found) == [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("litert", "fp32"), ("litert", "int8")]
    for runtime in ("onnxruntime", "litert"):
        assert found[runtime, "fp32"]["sqnr_db"] > 100
        assert 20 < found[runtime, "int8"]["sqnr_db"] < 60
        assert found[runtime, "int8"]["size_bytes"] < 0.27 * found[runtime, "fp32"]["size_bytes"]
    assert (record["images"], record["threads"]) == (8, 1)


@pytest.mark.skipif(INSTALLED, reason="LiteRT's converter is installed")
def test_without_litert_the_command_says_what_to_install(arguments):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "pip install 'edgeresnet[litert]'" in result.stderr


def test_models_of_other_weights_are_refused(exports):
    result = CliRunner().invoke(command, [str(exports["int8"].path), "--limit", "1"])
    assert result.exit_code == 1
    assert "was made from other weights" in result.stderr
