"""The bundled files belong together and are what the README says of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from edgeresnet import Classifier
from edgeresnet.classifier import bundled_model
from edgeresnet.datasets import read_split
from edgeresnet.evaluation import collect_logits, compare_logits, synthetic_images, top1
from edgeresnet.session import Session
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.weights import bundled_weights, load_weights
from exporters.export import export_models

ROOT = Path(__file__).parent.parent


def test_the_bundled_model_was_made_from_the_bundled_weights():
    weights, model = load_weights(bundled_weights()).spec, Classifier().spec
    assert model.checkpoint_sha256 == weights.checkpoint_sha256
    assert (model.precision, model.labels) == ("int8", weights.labels)
    assert bundled_model().stat().st_size < 11.5e6


def test_accuracy_is_at_least_what_the_project_promises():
    weights, model = load_weights(bundled_weights()).spec, Classifier().spec
    for spec in (weights, model):
        assert (spec.accuracy.count, spec.accuracy.data) == (10_000, "CIFAR-10 test set, JPEG copy")
    assert weights.accuracy.top1 >= 0.93
    assert model.accuracy.top1 >= weights.accuracy.top1 - 0.001


def test_the_committed_recipe_log_and_account_are_of_the_run_that_made_the_weights():
    folder = bundled_weights().parent / "training"
    config = TrainingConfig.from_json((folder / "config.json").read_text())
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    assert [int(row["image_size"]) for row in rows] == [config.size_at(epoch) for epoch in range(config.epochs)]
    stated = f"{load_weights(bundled_weights()).spec.accuracy.top1:.2%} top-1".replace("%", " %")
    for account in (folder / "README.md", ROOT / "README.md"):
        assert stated in account.read_text()


@pytest.mark.parametrize("name", ["h200-teacher-86-epochs", "h200-distilled-156-epochs", "bundled"])
def test_the_account_of_the_runs_behind_the_weights_is_that_of_their_logs(name):
    training = bundled_weights().parent / "training"
    folder = training if name == "bundled" else ROOT / "benchmarks" / "records" / "training" / name
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    minutes, end = sum(float(row["seconds"]) for row in rows) / 60, rows[-1]
    figures = f"| {len(rows)} | {minutes:.0f} | {float(end['validation_loss']):.3f} | {float(end['validation_top1']):.1%} | "
    assert figures.replace("%", " %") in (training / "README.md").read_text()


def test_exporting_again_gives_the_bundled_model(tmp_path):
    (exported,) = export_models(bundled_weights(), ("int8",), tmp_path)
    pixels = synthetic_images(32, 16, seed=5)
    np.testing.assert_allclose(Session(exported.path).logits(pixels), Classifier().logits(pixels), rtol=1e-5, atol=1e-5)


def test_the_committed_record_is_of_the_bundled_files():
    record = json.loads((ROOT / "benchmarks" / "records" / "cpu.json").read_text())
    by_precision = {(r["runtime"], r["precision"]): r for r in record["results"]}
    assert by_precision["onnxruntime", "int8"]["size_bytes"] == bundled_model().stat().st_size
    assert by_precision["onnxruntime", "int8"]["accuracy"]["top1"] == Classifier().spec.accuracy.top1
    assert by_precision["pytorch", "fp32"]["accuracy"]["top1"] == load_weights(bundled_weights()).spec.accuracy.top1
    fp32 = by_precision["onnxruntime", "fp32"]["accuracy"]
    assert fp32["agreement_with_original"] >= 0.999


def test_the_stamped_accuracy_is_what_an_independent_count_finds(real_data):
    """A sample of the real test images, spread over the classes, within four standard errors of the stamped figure."""
    test = read_split(real_data, "test", limit=600)
    stamped = Classifier().spec.accuracy
    if test.name != stamped.data:
        pytest.skip(f"the data at hand is {test.name}")
    classifier = Classifier()
    logits = classifier.logits(test.images)
    counted = sum(
        prediction.label == test.classes[label]
        for prediction, label in zip(classifier.predict_batch(test.images), test.labels, strict=True)
    )
    assert counted / 600 == pytest.approx(top1(logits, test.labels))
    assert counted / 600 == pytest.approx(stamped.top1, abs=4 * (stamped.top1 * (1 - stamped.top1) / 600) ** 0.5)
    parity = compare_logits(collect_logits(load_weights(bundled_weights()), test.images, ""), logits)
    assert parity.agreement >= 0.98


@pytest.mark.parametrize(
    "arguments", [("export",), ("bench",), ("eval", "--data", "{data}"), ("train", "--init", "bundled", "--data", "{data}")]
)
def test_a_released_wheel_which_has_no_weights_says_where_they_are(run_cli, labelled_folder, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    model = [str(bundled_model())] if arguments[0] == "eval" else []
    monkeypatch.setattr("edgeresnet.training.weights.files", lambda package: tmp_path)
    failed = run_cli(*(argument.format(data=labelled_folder) for argument in arguments), *model)
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert failed.err.startswith("error: the bundled network's PyTorch weights are not in released wheels")
    assert "from a checkout" in failed.err
    assert not list(tmp_path.iterdir())
