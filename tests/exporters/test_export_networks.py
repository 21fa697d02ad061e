"""Networks that are not ours, the whole way from a state dictionary to models that answer as they do."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from edgeresnet.errors import ExportError, NetworkError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.session import Session
from edgeresnet.spec import ImageInput
from edgeresnet.training.networks import find_network
from edgeresnet.training.norms import estimate_norms
from exporters.export import export_module


class Own(nn.Module):
    """Grey images that are not square, probabilities in a tuple, a norm behind a sum, and nothing else like a ResNet."""

    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        features = torch.relu(self.stem(images))
        features = torch.nn.functional.silu(self.norm(features + self.body(features)))
        return self.head(features.mean((2, 3))).softmax(1), features


@pytest.mark.parametrize(
    ("name", "size", "below"),
    # A transformer whose few weights are not worth 8 bits.
    [("torchvision:mnasnet0_5", (64, 48), "int8"), ("timm:test_efficientnet", (64, 64), "int8"), ("timm:test_vit", None, "fp16")],
)
def test_a_network_by_name_is_exported_by_the_command(run_cli, tmp_path, name, size, below):
    blueprint = find_network(name)
    usual = blueprint.preprocess(size, "")
    torch.manual_seed(1)
    network = blueprint.build(4)
    estimate_norms(network, synthetic_images(usual.input, 32), usual)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "best.pth")
    (tmp_path / "labels.json").write_text('["a", "b", "c", "d"]')
    arguments = ["export", "--network", name, "--weights", tmp_path / "best.pth", "--labels", tmp_path / "labels.json"]
    arguments += ["--size", f"{size[0]}x{size[1]}"] if size else []
    result = run_cli(*arguments, "--output", tmp_path, "--precision", "fp32", "--precision", below, "--min-db", 10)
    assert result.status == 0, result.err
    stem = name.partition(":")[2]
    session = Session(tmp_path / f"{stem}-fp32.onnx")
    assert session.spec.labels == ("a", "b", "c", "d")
    assert (session.spec.architecture, session.spec.input, session.spec.mean) == (name, usual.input, usual.mean)
    pixels = synthetic_images(usual.input, 5, seed=9)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (usual.mean, usual.std))
    with torch.inference_mode():
        expected = network.eval()((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    assert np.abs(session.logits(pixels) - expected).max() < 1e-4 * np.abs(expected).max()
    assert Session(tmp_path / f"{stem}-{below}.onnx").spec.precision == below
    assert f"--original {tmp_path / 'best.pth'} --network {name}" in result.err


def test_a_module_at_hand_is_exported_in_every_precision(tmp_path):
    torch.manual_seed(2)
    module = Own().train()
    preprocessing = Preprocessing(input=ImageInput(height=24, width=40, channels=1, fit="letterbox"), mean=(0.4,), std=(0.2,))
    precisions = ("fp32", "fp16", "int8", "int8-static", "int8-stock")
    calibration = synthetic_images(preprocessing.input, 32, seed=4)
    exports = export_module(
        module, preprocessing, tmp_path, name="own", labels=("x", "y", "z"), precisions=precisions, calibration=calibration
    )
    assert [exported.path.name for exported in exports] == [f"own-{precision}.onnx" for precision in precisions]
    assert module.training
    assert module.norm.running_mean.abs().max() == 0
    pixels = synthetic_images(preprocessing.input, 6, seed=8)
    with torch.inference_mode():
        expected = module.eval()((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.4) / 0.2)[0].numpy()
    session = Session(exports[0].path)
    assert session.spec.output == "probabilities"
    np.testing.assert_allclose(np.exp(session.logits(pixels)), expected, atol=1e-5)
    assert session.spec.input == preprocessing.input


def test_a_precision_that_cannot_be_does_not_lose_the_others_silently(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    preprocessing = Preprocessing(input=ImageInput.of(16), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ExportError) as refused:
        export_module(
            module, preprocessing, tmp_path, name="small", precisions=("fp32", "int8-static", "fp16"), calibration=synthetic_images(16, 8)
        )
    assert re.fullmatch(
        r"int8-static: nothing to quantize: .*reads the image.*; nothing was written; what holds can be had with "
        r"--precision fp32 --precision fp16",
        str(refused.value),
    )
    assert not list(tmp_path.iterdir())


def test_what_is_no_classifier_is_refused(tmp_path):
    preprocessing = Preprocessing(input=ImageInput.of(16), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(NetworkError, match=r"features: the network gives a Tensor of the shape \(2, 8, 14, 14\), not logits"):
        export_module(nn.Conv2d(3, 8, 3), preprocessing, tmp_path, name="features")
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * 3, 2))
    with pytest.raises(NetworkError, match="tells 2 classes apart, and there are 3 labels"):
        export_module(classifier, preprocessing, tmp_path, name="two", labels=("a", "b", "c"))


def test_calls_that_lack_something_say_what(run_cli, tmp_path, weights):
    torch.save(Own().state_dict(), tmp_path / "own.pt")
    missing = run_cli("export", "--network", "torchvision:resnet18")
    assert (missing.status, "the weights of torchvision:resnet18 are missing: --weights FILE" in missing.err) == (2, True)
    twice = run_cli("export", weights, "--weights", weights)
    assert (twice.status, "give one of them" in twice.err) == (2, True)
    senseless = run_cli("export", weights, "--fit", "letterbox", "--resize", 40, "--output", tmp_path)
    assert (senseless.status, "a letterbox shows the whole image" in senseless.err) == (2, True)
    unknown = run_cli("export", "--network", "torchvision:resnet19", "--weights", tmp_path / "own.pt")
    assert (unknown.status, "close: resnet1" in unknown.err) == (1, True)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    counted = run_cli("export", weights, "--labels", tmp_path / "labels.txt", "--output", tmp_path)
    assert (counted.status, "tells 10 classes apart, and there are 2 labels" in counted.err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "own.pt"]


def test_our_weights_can_be_given_other_names(run_cli, tmp_path, weights):
    names = [f"sort {number}" for number in range(10)]
    (tmp_path / "labels.json").write_text(json.dumps(names))
    result = run_cli("export", weights, "--labels", tmp_path / "labels.json", "--precision", "fp32", "--output", tmp_path)
    assert result.status == 0, result.err
    assert list(Session(tmp_path / "resnet18-fp32.onnx").spec.labels) == names
