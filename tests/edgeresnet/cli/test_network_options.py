"""What arrives of the options that say what network it is and what happens to its images."""

import json
from types import SimpleNamespace

import pytest

from edgeresnet.errors import EdgeResNetError
from edgeresnet.preprocessing import Changes
from edgeresnet.training.networks import find_network
from exporters.export import export_module


class ArrivedError(EdgeResNetError):
    """Ends a command where its work would begin."""


@pytest.fixture
def arrivals(monkeypatch):
    """Notes what functions are called with, and ends the command."""

    def watch(place):
        found = SimpleNamespace(positional=(), named={})

        def note(*positional, **named):
            found.positional, found.named = positional, named
            raise ArrivedError("arrived")

        monkeypatch.setattr(place, note)
        return found

    return watch


PREPROCESSING = ("--size", "40x48", "--mean", 0.1, 0.2, 0.3, "--std", 0.4, 0.5, 0.6, "--fit", "crop", "--resize", 50, "--filter", "lanczos")


def test_what_export_is_told_of_a_network_arrives(run_cli, arrivals, weights, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    loading = arrivals("exporters.export.load_network")
    named = ("--network", "cifar-resnet18", "--weights", weights, "--labels", tmp_path / "labels.txt", "--min-db", 12.5)
    result = run_cli("export", *named, *PREPROCESSING)
    assert result.err == "error: arrived\n"
    assert loading.positional == (weights, "cifar-resnet18")
    found = loading.named
    assert found["labels"][3] == "kind 3"
    assert found["changes"] == Changes(size=(40, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), fit="crop", resize=50, filter="lanczos")
    run_cli("export", weights, "--preset", "imagenet")
    assert loading.named["changes"] == Changes(preset="imagenet")
    run_cli("export")
    assert (loading.positional[1], loading.named["labels"], loading.named["changes"]) == (None, None, Changes())


def test_the_least_decibels_of_an_export_arrive(run_cli, arrivals, weights):
    exporting = arrivals("exporters.export.export_network")
    run_cli("export", weights, "--min-db", 12.5)
    assert exporting.named["min_db"] == 12.5
    run_cli("export", weights)
    assert exporting.named["min_db"] is None


def test_the_network_of_a_run_and_of_an_average_arrives(run_cli, arrivals, weights, image_folder, tmp_path):
    training = arrivals("edgeresnet.training.run.run_training")
    run_cli("train", "--data", image_folder, "--network", "torchvision:squeezenet1_1")
    config = training.positional[0]
    assert (config.network, config.image_size, config.crop_padding, config.cutout) == ("torchvision:squeezenet1_1", 224, 28, 56)
    run_cli("train", "--data", image_folder, "--network", "torchvision:squeezenet1_1", "--image-size", 96)
    assert (training.positional[0].image_size, training.positional[0].cutout) == (96, 24)
    run_cli("train", "--data", image_folder, "--network", "my.own:net", "--resume", "--output", tmp_path)
    assert (training.positional[0], training.named["network"]) == (None, "my.own:net")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"network": "my.own:net", "small_sizes": [], "image_size": 48}))
    refused = run_cli("train", "--data", image_folder, "--recipe", recipe)
    assert (refused.status, "no file can make this program import" in refused.err) == (1, True)
    run_cli("train", "--data", image_folder, "--recipe", recipe, "--network", "timm:resnet18")
    assert (training.positional[0].network, training.positional[0].image_size) == ("timm:resnet18", 48)
    averaging = arrivals("edgeresnet.training.average.average_weights")
    run_cli("average", weights, weights, "--data", image_folder, "--output", tmp_path / "mean", "--network", "my.own:net")
    assert averaging.named["network"] == "my.own:net"


@pytest.mark.parametrize("command", [("bench",), ("eval", "--data", ".")])
def test_the_network_of_an_original_arrives(run_cli, arrivals, exports, weights, command):
    choosing = arrivals("benchmarks.originals.choose_original")
    run_cli(*command, exports["int8"].path, "--original", weights, "--network", "my.own:net")
    assert choosing.positional[1:3] == (weights, "my.own:net")


def test_info_shows_many_labels_in_a_line(run_cli, tmp_path):

    blueprint = find_network("timm:test_resnet")
    export_module(blueprint.build(30), blueprint.preprocess((32, 32), ""), tmp_path, name="many", precisions=("fp32",))
    shown = run_cli("info", tmp_path / "many-fp32.onnx").out
    assert "30: class 0, class 1," in shown
    assert "class 25" not in shown
    facts = json.loads(run_cli("info", tmp_path / "many-fp32.onnx", "--format", "json").out)
    assert len(json.loads(facts["metadata"]["edgeresnet.labels"])) == 30
