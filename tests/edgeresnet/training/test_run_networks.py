"""Runs of networks that are not the default one: small ones of timm's and torchvision's, and a user's own."""

import dataclasses
import signal
import sys

import pytest
import torch

from edgeresnet.errors import CheckpointError, DataError, NetworkError
from edgeresnet.session import Session
from edgeresnet.training.average import average_weights
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.networks import find_network
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights, save_weights

CPU = torch.device("cpu")
OWN = "trained_networks:Net"
CODE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        body = nn.Conv2d(3, 16, 3, stride=2), nn.GroupNorm(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*body, nn.Linear(16, num_classes))
"""


def settings(network, size, **others):
    recipe = TrainingConfig.for_network(network, size)
    return dataclasses.replace(recipe, epochs=2, batch_size=8, lr=0.02, validation_fraction=0.2, ema_decay=0.9, **others)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "trained_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("trained_networks", None)


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """A network of timm's that was trained on red and green."""
    return run_training(settings("timm:test_efficientnet", 32), image_folder, tmp_path_factory.mktemp("run"), device=CPU).weights


def test_a_run_of_another_network_ends_in_weights_that_say_so(trained, image_folder, run_cli, tmp_path):
    spec = load_weights(trained).spec
    usual = find_network("timm:test_efficientnet").preprocess((32, 32), "")
    assert (spec.architecture, spec.input, spec.mean, spec.std) == ("timm:test_efficientnet", usual.input, usual.mean, usual.std)
    assert (spec.labels, spec.accuracy.count) == (("green", "red"), 16)
    assert {"timm", "torch"} < set(spec.versions)
    exported = run_cli("export", trained, "--precision", "fp32", "--output", tmp_path, "--data", image_folder)
    assert exported.status == 0, exported.err
    assert Session(tmp_path / "test_efficientnet-fp32.onnx").spec.accuracy == spec.accuracy


def test_a_run_begins_with_anybodys_weights_and_a_fresh_head(trained, image_folder, tmp_path):
    network = find_network("timm:test_efficientnet").build(2)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    barely = dataclasses.replace(settings("timm:test_efficientnet", 32), epochs=1, lr=1e-9)
    lines = []
    result = run_training(barely, image_folder, tmp_path / "theirs", device=CPU, init=tmp_path / "theirs.pth", report=lines.append)
    assert f"{tmp_path / 'theirs.pth'}: does not say for which classes it is: the head begins fresh" in lines
    begun = load_weights(result.weights).model.network.state_dict()
    torch.testing.assert_close(begun["conv_head.weight"], network.state_dict()["conv_head.weight"], rtol=0, atol=1e-3)
    assert (begun["classifier.weight"] - network.state_dict()["classifier.weight"]).abs().max() > 1e-2
    kept = run_training(barely, image_folder, tmp_path / "ours", device=CPU, init=trained)
    head = [load_weights(path).model.network.classifier.weight for path in (trained, kept.weights)]
    torch.testing.assert_close(*head, rtol=0, atol=1e-3)
    other = dataclasses.replace(settings("timm:test_resnet", 32), epochs=1)
    with pytest.raises(CheckpointError, match="holds 'timm:test_efficientnet', and this run trains 'timm:test_resnet'"):
        run_training(other, image_folder, tmp_path / "other", device=CPU, init=trained)
    with pytest.raises(CheckpointError, match="do not fit a timm:test_resnet"):
        run_training(other, image_folder, tmp_path / "other", device=CPU, init=tmp_path / "theirs.pth")
    assert not (tmp_path / "other").exists()


def test_a_run_of_ones_own_network_resumes_exactly_by_its_name(own, image_folder):
    """Dropout too follows from the step."""
    config = settings(OWN, 16)
    seen = 0

    def track(iterable, description, total=None):
        nonlocal seen
        for step in iterable:
            seen += description.startswith("epoch")
            if seen == 5:
                signal.raise_signal(signal.SIGINT)
                seen = 6
            yield step

    whole = run_training(config, image_folder, own / "whole", device=CPU)
    torch.rand(7)
    assert not run_training(config, image_folder, own / "parts", device=CPU, track=track).finished
    with pytest.raises(CheckpointError, match="no file can make this program import"):
        run_training(None, image_folder, own / "parts", device=CPU)
    resumed = run_training(None, image_folder, own / "parts", device=CPU, network=OWN)
    with pytest.raises(CheckpointError, match="no file can make this program import"):
        load_weights(whole.weights)
    states = [load_weights(result.weights, OWN).model.network.state_dict() for result in (whole, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_every_parameter_is_trained(own, image_folder):
    """Also those that are neither filters nor matrices nor vectors, such as the position embedding of a transformer."""
    for name in ("timm:test_vit", "timm:test_convnext"):
        state = TrainingState.new(settings(name, 160), ("a", "b"), CPU)
        trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in state.network.parameters()}


def test_muon_keeps_to_filters_with_a_norm_behind_them():
    state = TrainingState.new(settings("timm:test_efficientnet", 32, muon_lr=0.03), ("a", "b"), CPU)
    names = {id(p): name for name, p in state.network.named_parameters()}
    filters = {names[id(p)] for group in state.optimizer.param_groups if "muon_momentum" in group for p in group["params"]}
    assert "conv_head.weight" in filters
    assert not {name for name in filters if "conv_dw" in name or ".se." in name}
    with pytest.raises(NetworkError, match="Muon is for filters with a normalization behind them"):
        TrainingState.new(settings("torchvision:squeezenet1_1", 64, muon_lr=0.03), ("a", "b"), CPU)


def test_weights_of_two_runs_are_averaged(trained, image_folder, tmp_path):
    network = load_weights(trained)
    state = network.model.network.state_dict()
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: value.std() * torch.randn(value.shape, generator=generator) if value.ndim == 4 else torch.zeros_like(value)
        for name, value in state.items()
    }
    for name, sign in (("plus", 1), ("minus", -1)):
        save_weights(tmp_path / name, {key: value + sign * noise[key] for key, value in state.items()}, network.spec)
    result = average_weights([tmp_path / "plus", tmp_path / "minus"], image_folder, tmp_path / "mean", validation_fraction=0.2)
    assert result.average.loss < min(member.loss for member in result.members)
    assert load_weights(tmp_path / "mean").spec.architecture == "timm:test_efficientnet"


def test_what_a_network_cannot_do_is_refused_before_images_are_read(image_folder, tmp_path):
    with pytest.raises(NetworkError, match="timm:test_vit3 does not take images of 64 x 64"):
        run_training(settings("timm:test_vit3", 64), tmp_path / "none", tmp_path / "run", device=CPU)
    with pytest.raises(NetworkError, match="torchvision has no classifier"):
        run_training(settings("torchvision:resnet19", 64), tmp_path / "none", tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_images_that_memory_does_not_hold_are_refused_before_they_are_read(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnet.datasets.available_memory", lambda: 10**6)
    with pytest.raises(DataError, match=r"48 images of 224 x 224 take 0.0 GB, and 0.0 GB of memory are free; fix: smaller images"):
        run_training(settings("torchvision:mobilenet_v3_small", 224), image_folder, tmp_path / "run", device=CPU)


def test_the_command_trains_at_the_networks_own_size(image_folder, tmp_path, run_cli):
    options = ("--epochs", 1, "--batch-size", 16, "--output", tmp_path / "run", "--seed", 3)
    result = run_cli("train", "--data", image_folder, "--network", "timm:test_resnet", *options)
    assert result.status == 0, result.err
    config = TrainingConfig.from_json((tmp_path / "run" / "config.json").read_text())
    assert (config.network, config.image_size, config.crop_padding, config.cutout) == ("timm:test_resnet", 160, 20, 40)
    assert "edgeresnet export" in result.out
