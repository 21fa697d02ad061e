"""The steps that are meant for a GPU, rehearsed on the CPU."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.studies import gpu
from benchmarks.studies.gpu import Study, bench_half, call_from_threads, list_steps, open_with
from edgeresnet.datasets import read_split


@pytest.fixture
def study(exports, uneven_folder, tmp_path):
    test = read_split(uneven_folder, "test", size=32)
    models = tuple(exports[precision].path for precision in ("fp32", "int8"))
    return Study(models=models, provider="cpu", test=test, tuning=test, seconds=0.0, folder=tmp_path)


def test_every_step_leaves_what_it_found_or_why_it_did_not(study, monkeypatch):
    def fail():
        raise RuntimeError("broken step")

    steps = {name: step for name, step in list_steps(study).items() if name in ("doctor", "threads", "int8", "little-memory")}
    monkeypatch.setattr(gpu, "list_steps", lambda _: {"broken": fail, **steps})
    assert gpu.run(study) == {"broken": "RuntimeError: broken step", "threads": "EdgeResNetError: no fp16 model was given"}
    found = {path.stem: json.loads(path.read_text()) for path in study.folder.glob("*.json")}
    assert found.keys() == {"broken", *steps}
    assert found["broken"]["error"] == "RuntimeError: broken step"
    assert found["int8"]["result"] == {"opened": True, "provider": "CPUExecutionProvider"}
    assert found["little-memory"]["result"]["error"] == "provider 'cpu' takes no options, but was given gpu_mem_limit"
    assert {finding["status"] for finding in found["doctor"]["result"]} <= {"ok", "absent", "broken"}


def test_threads_get_the_answers_of_one(study, monkeypatch):
    monkeypatch.setattr(gpu, "CALLS", 12)
    found = call_from_threads(study, "fp32")
    assert (found["calls"], found["threads"], found["equal"]) == (12, 4, True)


def test_the_original_in_half_precision_is_close_and_not_equal(study, monkeypatch):
    monkeypatch.setattr(gpu, "BATCH_SIZES", (2,))
    found = bench_half(replace(study, test=study.test.subset(np.arange(6))))
    assert [entry["batch_size"] for entry in found["latency"]] == [2]
    assert 1e-6 < found["accuracy"]["mean_difference"] < 0.05


def test_cuda_that_is_not_there_is_a_reason(study):
    found = open_with(replace(study, provider="cuda"), "fp32")
    assert not found["opened"]
    assert "provider 'cuda' was asked for" in found["error"]


def test_a_folder_without_images_is_one_line(exports, tmp_path):
    result = CliRunner().invoke(gpu.command, [str(exports["fp32"].path), "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert (result.exit_code, result.output.count("Error: ")) == (1, 1)
