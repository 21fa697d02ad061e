import numpy as np
import pytest
import torch

from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import synthetic_images
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.progress import silent
from edgeresnet.spec import ImageInput
from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.norms import estimate_norms
from edgeresnet.training.outliers import _find_largest, silence_outliers

IMAGES = synthetic_images(16, 32)
CHANNEL = 5
PREPROCESSING = Preprocessing(input=ImageInput.of(16), mean=(0.5, 0.45, 0.4), std=(0.25, 0.24, 0.26))


def run(network):
    return network(normalize(torch.from_numpy(IMAGES), *normalization(PREPROCESSING, torch.device("cpu")), 16))


@pytest.fixture
def network():
    """Random weights, with a channel of stage 1 that is hundreds of times as large as the others."""
    torch.manual_seed(0)
    network = build_resnet18(4)
    for block in [*network.layer1, *network.layer2, *network.layer3, *network.layer4]:
        torch.nn.init.ones_(block.bn2.weight)
    estimate_norms(network.requires_grad_(False), IMAGES, PREPROCESSING)
    network.bn1.weight[CHANNEL] = 500.0
    return network


def label(network):
    """The images with the labels that the network gives them: any change of its answers is a loss."""
    labels = run(network).argmax(1).numpy().astype(np.int64)
    return LabelledImages(images=IMAGES, labels=labels, classes=tuple("abcd"), name="generated")


def read_channel(network, factor):
    """Scale what the layers behind stage 1, and those in it, make of the channel."""
    for layer in (network.layer1[0].conv1, network.layer1[1].conv1, network.layer2[0].conv1, network.layer2[0].downsample[0]):
        layer.weight[:, CHANNEL] *= factor


def test_an_outlier_that_nothing_depends_on_is_silenced(network):
    read_channel(network, 0.0)
    before, lines = run(network), []
    silence_outliers(network, IMAGES, label(network), PREPROCESSING, report=lines.append)
    assert torch.equal(run(network), before)
    assert len(lines) == 1
    assert lines[0].startswith("stage 1: 1 of 64 channels")
    assert lines[0].endswith("silenced")
    for norm in (network.bn1, network.layer1[0].bn2, network.layer1[1].bn2):
        assert [c for c in range(64) if not norm.weight[c]] == [CHANNEL]
        assert norm.bias[CHANNEL] == 0


def test_an_outlier_that_tells_something_is_kept(network):
    read_channel(network, 0.01)
    before, lines = network.state_dict(), []
    before = {name: value.clone() for name, value in before.items()}
    silence_outliers(network, IMAGES, label(network), PREPROCESSING, report=lines.append)
    assert lines
    assert all(line.endswith("kept") for line in lines)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_outliers_stays_as_it_is(network):
    network.bn1.weight[CHANNEL] = 1.0
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lines = []
    silence_outliers(network, IMAGES, label(network), PREPROCESSING, report=lines.append)
    assert not lines
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("ratio", "found"), [(8.5, False), (11.5, True)])
def test_ten_times_the_median_makes_an_outlier(network, ratio, found):
    read_channel(network, 0.0)
    # Nothing is added to the channel but what comes in, so that its largest value goes with this weight.
    for block in network.layer1:
        block.bn2.weight[CHANNEL] = block.bn2.bias[CHANNEL] = 0.0
    network.bn1.weight[CHANNEL] = 1.0
    largest = _find_largest(network, network.layer1, IMAGES, PREPROCESSING, silent)
    network.bn1.weight[CHANNEL] = ratio * largest.median() / largest[CHANNEL]
    lines = []
    silence_outliers(network, IMAGES, label(network), PREPROCESSING, report=lines.append)
    assert [line.startswith("stage 1: 1 of 64 channels") for line in lines] == [True] * found
    assert (network.bn1.weight[CHANNEL] == 0) == found
