"""What arrives of every option of the commands that make something: export, quantize, train and average."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeresnet.datasets import read_split
from edgeresnet.spec import DEFAULT_PRECISIONS
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.weights import bundled_weights, load_weights

SIZE = 32


# --- export


def export(run_cli, door, *arguments):
    exporting = door("exporters.export.export_network")
    result = run_cli("export", *arguments)
    assert result.err == "error: arrived\n"
    return exporting.arrived


def test_export_makes_what_was_asked_for(run_cli, door, files):
    precisions = ("--precision", "int8-static", "--precision", "fp16", "--precision", "int8-static", "--amx")
    data = ("--data", files["data"], "--limit", 9, "--max-drop", 0.25)
    (network, found, output), named = export(run_cli, door, files["weights"], *precisions, *data, "--output", files["out"])
    assert network.spec == load_weights(files["weights"]).spec
    assert (found, output) == (("int8-static", "fp16"), files["out"])
    assert (named["for_amx"], named["max_drop"]) == (True, 0.25)
    np.testing.assert_array_equal(named["test"].images, read_split(files["data"], "test", size=SIZE, limit=9).images)
    # Ranges come from training images: those of test images would flatter the file's accuracy on them.
    np.testing.assert_array_equal(named["calibration"], read_split(files["data"], "train", size=SIZE).images)


def test_export_has_usual_settings(run_cli, door, files):
    (network, precisions, output), named = export(run_cli, door)
    assert network.spec == load_weights(bundled_weights()).spec
    assert (precisions, output) == (DEFAULT_PRECISIONS, Path())
    assert (named["test"], named["calibration"], named["for_amx"], named["max_drop"]) == (None, None, False, None)
    _, named = export(run_cli, door, "--data", files["data"])
    assert (len(named["test"]), named["calibration"]) == (len(read_split(files["data"], "test", size=SIZE)), None)


def test_ranges_come_from_256_training_images_spread_over_the_classes(run_cli, door, files):
    reading = door("edgeresnet.datasets.read_split", read_split)
    export(run_cli, door, "--data", files["data"], "--precision", "int8-static", "--limit", 3)
    asked = {positional[1]: named["limit"] for positional, named in reading.calls}
    assert asked == {"test": 3, "train": 256}


# --- quantize, train, average, doctor


def test_quantize_passes_on_what_it_is_asked(run_cli, door, files):
    quantizing = door("exporters.quantize.quantize_file")
    run_cli("quantize", files["fp32"], "--output", files["out"], "--min-db", 31.5, "--fp32", "stem", "--fp32", "fc", "--for", "vnni")
    assert quantizing.arrived[0] == (files["fp32"], files["out"])
    assert quantizing.named["excluded"] == ("stem", "fc")
    assert (quantizing.named["least_db"], quantizing.named["processor"]) == (31.5, "vnni")
    for given, form in (((), None), (("--dynamic",), "dynamic"), (("--static",), "static")):
        quantizing = door("exporters.quantize.quantize_file")
        run_cli("quantize", files["fp32"], *given)
        # The name of the result tells its form, which is not always known beforehand.
        assert quantizing.arrived[0] == (files["fp32"], None)
        assert (quantizing.named["form"], quantizing.named["least_db"], quantizing.named["processor"]) == (form, 20, "")


def train(run_cli, door, *arguments):
    training = door("edgeresnet.training.run.run_training")
    result = run_cli("train", *arguments)
    assert result.err == "error: arrived\n"
    return training.arrived


SETTINGS = {
    "--epochs": ("epochs", 3),
    "--batch-size": ("batch_size", 12),
    "--lr": ("lr", 0.5),
    "--muon-lr": ("muon_lr", 0.04),
    "--image-size": ("image_size", 24),
    "--seed": ("seed", 9),
    "--amp": ("amp", True),
    "--no-amp": ("amp", False),
}


@pytest.mark.parametrize("option", SETTINGS)
def test_a_setting_of_training_arrives_and_wins_over_the_recipe(run_cli, door, files, option):
    name, value = SETTINGS[option]
    given = (option,) if isinstance(value, bool) else (option, value)
    (config, data, _), _ = train(run_cli, door, "--data", files["data"], *given)
    assert data == files["data"]
    assert getattr(config, name) == value
    usual = dataclasses.replace(TrainingConfig(amp=config.amp), **{name: value})
    assert config == usual
    (config, _, _), _ = train(run_cli, door, "--data", files["data"], "--recipe", files["recipe"], *given)
    recipe = TrainingConfig(epochs=7, cutout=3, lr=0.3, seed=5, small_sizes=((2, 16),))
    assert config == dataclasses.replace(recipe, **{name: value})


def test_the_usual_settings_of_training_are_those_that_the_help_names(run_cli, door, files):
    (config, _, output), named = train(run_cli, door, "--data", files["data"])
    told = " ".join(run_cli("train", "--help").out.split())
    for text, value in (
        ("Passes over the images.", 30),
        ("Images per step, of all processes together.", 128),
        ("Peak learning rate.", 0.1),
    ):
        assert f"{text} [default: {value}]" in told
    assert (config.epochs, config.batch_size, config.lr, config.muon_lr, config.image_size, config.seed) == (30, 128, 0.1, 0, 32, 0)
    # The recipe of the documentation.
    assert (config.momentum, config.weight_decay, config.label_smoothing, config.ema_decay) == (0.9, 5e-4, 0.1, 0.998)
    assert (config.crop_padding, config.cutout, config.warmup_fraction, config.validation_fraction) == (4, 8, 0.15, 0.05)
    assert (output, named["init"]) == (Path("runs/train"), None)


@pytest.mark.parametrize("computes", [True, False])
def test_training_is_in_bfloat16_where_the_device_computes_in_it(run_cli, door, files, monkeypatch, computes):
    monkeypatch.setattr("edgeresnet.training.device.computes_in_bfloat16", lambda device: computes)
    (config, _, _), _ = train(run_cli, door, "--data", files["data"])
    assert config.amp == computes


def test_a_run_begins_where_it_was_told_to(run_cli, door, files):
    for given, expected in (("bundled", bundled_weights()), (files["weights"], files["weights"])):
        (_, _, output), named = train(run_cli, door, "--data", files["data"], "--init", given, "--output", files["out"])
        assert (named["init"], output) == (expected, files["out"])
    (config, _, output), _ = train(run_cli, door, "--data", files["data"], "--resume", "--output", files["out"])
    assert (config, output) == (None, files["out"])


def test_scripts_that_ask_for_no_winograd_get_what_everybody_gets(run_cli, door, files):
    assert train(run_cli, door, "--data", files["data"], "--no-winograd") == train(run_cli, door, "--data", files["data"])
    assert "winograd" not in run_cli("train", "--help").out


def test_a_run_learns_from_the_teacher_that_was_named(run_cli, door, files):
    for given, expected in (
        ((), (None, None)),
        (("--teacher", files["weights"]), (files["weights"], None)),
        (("--teacher", files["weights"], "--teacher-network", "mine:Net", "--resume"), (files["weights"], "mine:Net")),
    ):
        _, named = train(run_cli, door, "--data", files["data"], *given)
        assert (named["teacher"], named["teacher_network"]) == expected
    refused = run_cli("train", "--data", files["data"], "--teacher-network", "mine:Net")
    assert "name those, too" in refused.err


def test_a_run_is_on_the_device_that_was_named(run_cli, door, files):
    choosing = door("edgeresnet.training.device.choose_device")
    run_cli("train", "--data", files["data"], "--device", "cuda:1")
    assert choosing.arrived[0] == ("cuda:1",)
    meta = door("edgeresnet.training.device.choose_device", lambda name: torch.device("meta"))
    assert train(run_cli, door, "--data", files["data"], "--no-amp")[1]["device"].type == "meta"
    assert meta.arrived[0] == ("auto",)


def test_train_fetches_data_only_where_it_is_told_to(run_cli, door, files):
    for given, calls in ((("--download",), 1), ((), 0)):
        fetching = door("edgeresnet.training.download.download_cifar10", lambda folder: None)
        train(run_cli, door, "--data", files["data"], *given)
        assert [positional for positional, _ in fetching.calls] == [(files["data"],)] * calls


@pytest.mark.parametrize(("given", "fraction"), [((), 0.05), (("--validation-fraction", 0.3), 0.3)])
def test_average_holds_out_the_share_that_the_runs_did(run_cli, door, files, given, fraction):
    averaging = door("edgeresnet.training.average.average_weights")
    run_cli("average", files["weights"], files["weights"], "--data", files["data"], "--output", files["out"], *given)
    assert averaging.arrived[0] == ((files["weights"], files["weights"]), files["data"], files["out"])
    assert averaging.named["validation_fraction"] == fraction
