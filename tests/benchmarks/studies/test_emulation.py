import json
import shutil

import pytest
from click.testing import CliRunner

from benchmarks.studies import emulation
from benchmarks.studies.emulation import command


def emulate(exports, *options):
    paths = [str(exports[precision].path) for precision in ("fp32", "int8")]
    return CliRunner().invoke(command, [*paths, "--limit", "2", *options], env={"EDGERESNET_DATA": None})


def test_this_machine_is_one_of_the_processors(exports):
    result = emulate(exports, "--processor", "here")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["results"]
    assert (row["model"], row["precision"], row["processor"]) == ("resnet18-int8.onnx", "int8", "here")
    assert row["sqnr_db"] > 25


def test_int8_means_the_same_without_vnni(exports):
    if shutil.which("qemu-x86_64-static") is None:
        pytest.skip("qemu-user-static is not installed")
    result = emulate(exports, "--processor", "here", "--processor", "AVX2 without VNNI")
    assert result.exit_code == 0, result.output
    here, emulated = json.loads(result.stdout)["results"]
    assert emulated["sqnr_db"] == pytest.approx(here["sqnr_db"], abs=1)


def test_what_is_missing_is_named(exports, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = emulate(exports, "--processor", "AVX2 without VNNI")
    assert result.exit_code == 1
    assert "qemu-x86_64-static is not installed; fix: apt install qemu-user-static" in result.output
    monkeypatch.setattr(emulation, "SCRIPT", "raise SystemExit('it broke')")
    result = emulate(exports, "--processor", "here")
    assert result.exit_code == 1
    assert "failed: it broke" in result.output
