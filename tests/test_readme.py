"""The README's examples run, and its figures are those of the committed record."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeresnet.classifier import Classifier, bundled_model
from edgeresnet.profile import Profile
from edgeresnet.target import Target

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ edgeresnet (.+)$", README, re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
RECORD = json.loads((ROOT / "benchmarks" / "records" / "cpu.json").read_text())
CARD = json.loads((ROOT / "benchmarks" / "records" / "card.json").read_text())
OPTIMIZERS = sorted((ROOT / "benchmarks" / "records" / "optimizers").iterdir())
MODEL_CARD = (ROOT / "edgeresnet" / "models" / "README.md").read_text()
TRAINING_ACCOUNT = (ROOT / "edgeresnet" / "models" / "training" / "README.md").read_text()
EMULATION = json.loads((ROOT / "benchmarks" / "records" / "emulation.json").read_text())
LITERT_AVX2 = json.loads((ROOT / "benchmarks" / "records" / "litert-avx2.json").read_text())
LITERT = json.loads((ROOT / "benchmarks" / "records" / "litert.json").read_text())
NETWORKS = json.loads((ROOT / "benchmarks" / "records" / "networks.json").read_text())
AVX2 = json.loads((ROOT / "benchmarks" / "records" / "cpu-avx2.json").read_text())
TRAINING_STEPS = {
    arithmetic: json.loads((ROOT / "benchmarks" / "records" / f"training_step-{arithmetic}.json").read_text())
    for arithmetic in ("bfloat16", "float32")
}


@pytest.fixture
def workplace(tmp_path, monkeypatch, image_folder, labelled_folder):
    """A folder with the files that the examples mention."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.jpg")
    shutil.copytree(image_folder, "my-images")
    shutil.copytree(labelled_folder, "cifar10")
    Profile.of(bundled_model(), Target(threads=1), images_per_call=1, p50_ms=5.0).write(Path("deploy.json"))
    return tmp_path


def test_the_commands_run_as_given(workplace, run_cli):
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        result = run_cli(*shlex.split(command))
        assert result.status == 0, f"{command}: {result.err}"


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs_as_given(workplace, code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_figures_are_the_records():
    for result in RECORD["results"]:
        for latency in result["latency"]:
            assert f"{latency['p50_ms']:.2f}" in README
        assert f"{result['accuracy']['top1']:.2%}" in README
        assert f"{result['accuracy']['agreement_with_original']:.2%}" in README
    assert RECORD["environment"]["cpu"] in README


def test_the_emulated_figures_are_the_records():
    for model in {result["model"] for result in EMULATION["results"]}:
        figures = [f"{result['sqnr_db']:.1f} dB" for result in EMULATION["results"] if result["model"] == model]
        assert f"| `{model}` | {' | '.join(figures)} |" in README
    assert f"on {EMULATION['images']} test images" in README


def test_the_model_card_has_the_records_figures():
    low, high = CARD["top1_interval95"]
    assert f"{CARD['top1']:.2%} top-1, 95 % interval {low:.2%} to {high:.2%}" in MODEL_CARD
    for shares in (CARD["per_class"].values(), *CARD["corrupted"].values()):
        assert f"| {' | '.join(f'{share:.1%}' for share in shares)} |" in MODEL_CARD
    assert f"is {CARD['calibration_error']:.1%}" in MODEL_CARD
    assert f"{CARD['corrupted_count']:,} of the test images, {CARD['corrupted_clean']:.1%} as they are" in MODEL_CARD
    assert CARD["checkpoint_sha256"] == Classifier().spec.checkpoint_sha256


@pytest.mark.parametrize("arithmetic", TRAINING_STEPS)
def test_the_figures_of_a_training_step_are_the_records(arithmetic):
    record = TRAINING_STEPS[arithmetic]
    usual = record["usual"]
    without = [f"{1 / record['speedup'][way]:.2f}x" for way in ("pytorch_convolutions", "memory_handed_back")]
    name = f"[{arithmetic}](benchmarks/records/training_step-{arithmetic}.json)"
    assert "avx512_bf16" in record["environment"]["instruction_sets"]
    assert f"| {name} | {usual['images_per_s']:.0f} | {' | '.join(without)} | {usual['prepare_share']:.1%} |" in README


def test_the_latencies_on_avx2_are_the_records():
    for result in AVX2["results"]:
        name = "PyTorch original" if result["runtime"] == "pytorch" else f"`{result['name']}`"
        one, many = (f"{latency['p50_ms']:.2f} | {latency['speedup_vs_original']:.2f}x" for latency in result["latency"])
        assert f"| {name} | {one} | {many} |" in README
    assert AVX2["environment"]["instruction_sets"] == ["avx2", "fma"]


def test_the_figures_of_other_networks_are_the_records():
    for r in NETWORKS["results"]:
        figures = f"{r['speedup']:.2f}x | {r['int8_db']:.1f} dB | {r['stock_db']:.1f} dB | {r['layers_in_int8']} of {r['layers']}"
        assert f"| {r['network']} | {figures} |" in README


def test_the_figures_beside_litert_are_the_records():
    for r in LITERT["results"]:
        figures = f"{r['p50_ms']:.2f} | {r['sqnr_db']:.1f} dB | {r['agreement']:.2%}"
        assert f"| `{r['model']}` | {r['runtime']} | {figures} |" in README
    assert f"{LITERT['images']:,} test images against the PyTorch original" in README
    ours, theirs = (
        next(r["p50_ms"] for r in LITERT_AVX2["results"] if (r["runtime"], r["precision"]) == (runtime, "int8"))
        for runtime in ("onnxruntime", "litert")
    )
    assert f"{ours:.2f} ms stand against {theirs:.2f}" in README


@pytest.mark.parametrize("run", OPTIMIZERS, ids=lambda run: run.name)
def test_the_figures_of_an_optimizer_are_its_runs(run):
    settings = json.loads((run / "config.json").read_text())
    epochs = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert len(epochs) == settings["epochs"]
    name = f"Muon, {settings['muon_lr']:g}" if settings["muon_lr"] else f"SGD, {settings['lr']:g}"
    seconds = min(float(epoch["seconds"]) for epoch in epochs)
    end = epochs[-1]
    row = f"| {name} | {float(end['train_loss']):.3f} | {float(end['validation_top1']):.1%} | {seconds:.0f} |"
    assert row in TRAINING_ACCOUNT


def test_the_runs_of_the_optimizers_differ_in_their_rates_alone():
    alike = [{**json.loads((each / "config.json").read_text()), "lr": 0, "muon_lr": 0} for each in OPTIMIZERS]
    assert all(other == alike[0] for other in alike)
