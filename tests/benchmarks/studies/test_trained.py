import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.studies import forms, trained
from edgeresnet.cifar10 import ARCHITECTURE, CIFAR10_LABELS
from edgeresnet.datasets import read_split, take_evenly
from edgeresnet.evaluation import compare_logits, match_classes, top1
from edgeresnet.session import Session
from edgeresnet.training.weights import load_weights


def test_every_form_answers_the_test_images_beside_fp32(monkeypatch, weights, exports, labelled_folder, tmp_path):
    """With forms that are there already: ``test_networks`` makes them."""
    given = {"dynamic": forms.Made(exports["int8"].path, ({"reason": ""},) * 2), "stock-static": forms.Made(exports["int8-static"].path)}
    monkeypatch.setattr(forms, "ROUNDS", 1)
    monkeypatch.setattr(trained, "make_forms", lambda *arguments: given)
    monkeypatch.setattr(trained, "EMULATED", (trained.HERE,))
    monkeypatch.setenv("EDGERESNET_DATA", str(tmp_path / "nothing"))  # of which `export` would compare all test images
    for split in ("train", "test"):
        shutil.copytree(labelled_folder / "test", tmp_path / "data" / split)
    record = tmp_path / "record.json"
    options = ["--data", str(tmp_path / "data"), "--limit", "20", "--emulated", "15", "--record", str(record)]
    result = CliRunner().invoke(trained.command, [str(weights), *options])
    assert result.exit_code == 0, result.output
    results = json.loads(record.read_text())["results"]
    assert result.stdout == f"{trained.tabulate(results)}\n{trained.tabulate_processors(results)}"
    (network,) = results
    test = read_split(labelled_folder, "test", size=32, limit=20)
    assert (network["images"], network["size"], network["network"], network["layers"]) == (20, [32, 32], ARCHITECTURE, 2)
    with torch.inference_mode():
        answers = load_weights(weights).model(torch.from_numpy(test.images)).numpy()
    labels = np.array([CIFAR10_LABELS.index(test.classes[label]) for label in test.labels])
    assert network["fp32_top1"] == top1(answers, labels)
    assert {name: form["layers_in_int8"] for name, form in network["forms"].items()} == {"dynamic": 2, "stock-static": None}
    for form, precision in (("dynamic", "int8"), ("stock-static", "int8-static")):
        found = Session(exports[precision].path).logits(test.images)
        parity = compare_logits(answers, found)
        assert (network["forms"][form]["top1"], network["forms"][form]["agreement"]) == (top1(found, labels), parity.agreement)
        assert network["forms"][form]["sqnr_db"] == pytest.approx(parity.sqnr_db, abs=0.5)
        # Only this project's forms.
        same = {trained.HERE: {"points": 0, "agreement": 1, "sqnr_db": None}}
        assert (network["emulated"], network["forms"][form]["emulated"]) == (15, same if form == "dynamic" else {})


def test_an_emulated_processor_is_held_against_this_one_on_images_of_all_classes(monkeypatch, exports, labelled_folder):
    asked = []

    def answer(model, images, processor):
        asked.append(images)
        logits = Session(model).logits(images)
        return logits if processor == trained.HERE else np.roll(logits, 1, axis=1)

    monkeypatch.setattr(trained, "run_emulated", answer)
    monkeypatch.setattr(trained, "EMULATED", ("another",))
    test = match_classes(read_split(labelled_folder, "test", size=32), CIFAR10_LABELS)
    some = take_evenly(test, 20)
    assert len(some) == 20
    assert len(set(some.labels)) == len(set(test.labels))
    found = trained._emulate(exports["int8"].path, some)["another"]
    here = Session(exports["int8"].path).logits(some.images)
    points = 100 * (top1(np.roll(here, 1, axis=1), some.labels) - top1(here, some.labels))
    assert (found.points, found.agreement) == (points, 0)
    assert found.sqnr_db < 10
    assert all(np.array_equal(images, some.images) for images in asked)


def test_the_table_has_points_lost():
    form = {"top1": 0.9, "sqnr_db": 31.4, "agreement": 0.9, "speedup": 2.0, "layers_in_int8": None}
    network = {"network": "n", "fp32_top1": 0.9025, "forms": {"stock-static": form}}
    (row,) = trained.tabulate([network]).splitlines()[2:]
    assert row == "| n | 90.25% | - | - | - | -0.25, 31 dB, 2.00x | - | - | - |"


def test_the_table_of_processors_has_our_forms_of_networks_that_were_emulated():
    same, other = {"points": 0.0, "agreement": 1.0, "sqnr_db": None}, {"points": -0.5, "agreement": 0.995, "sqnr_db": 51.6}
    emulated = {"AVX2 without VNNI": same, "Cortex-A72, no dot product": other, "Cortex-A76, dot product": other}
    forms = {"dynamic": {"emulated": emulated}, "stock-static": {"emulated": {}}}
    networks = [{"network": "n", "emulated": 500, "forms": forms}, {"network": "m", "emulated": 0, "forms": forms}]
    (row,) = trained.tabulate_processors(networks).splitlines()[2:]
    assert row == "| n | quantize --dynamic | +0.00, 100.0%, to the bit | -0.50, 99.5%, 52 dB | -0.50, 99.5%, 52 dB |"


def test_what_is_no_weights_file_is_one_clear_error(labelled_folder, tmp_path):
    (tmp_path / "junk").write_bytes(b"junk")
    result = CliRunner().invoke(trained.command, [str(tmp_path / "junk"), "--data", str(labelled_folder)])
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
