import copy

import torch

from edgeresnet.evaluation import synthetic_images
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import ImageInput
from edgeresnet.training import norms
from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.norms import estimate_norms

IMAGES = synthetic_images(16, 40)
PREPROCESSING = Preprocessing(input=ImageInput.of(16), mean=(0.5, 0.45, 0.4), std=(0.25, 0.24, 0.26))


def test_statistics_become_those_of_the_images_and_weights_stay(monkeypatch):
    monkeypatch.setattr(norms, "BATCH", 20)
    network = build_resnet18(3)
    network.bn1.running_mean.fill_(7)
    before = copy.deepcopy(network)
    estimate_norms(network, IMAGES, PREPROCESSING)
    assert not network.training
    features = network.conv1(normalize(torch.from_numpy(IMAGES), *normalization(PREPROCESSING, torch.device("cpu")), 16))
    torch.testing.assert_close(network.bn1.running_mean, features.mean((0, 2, 3)), rtol=0, atol=1e-5)
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    variance = torch.stack([features[part].var((0, 2, 3)) for part in chosen.split(20)]).mean(0)
    torch.testing.assert_close(network.bn1.running_var, variance, rtol=1e-4, atol=0)
    for (name, value), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(value, old), name
    assert network.bn1.momentum == before.bn1.momentum


def test_a_second_estimate_changes_nothing():
    network = build_resnet18(3)
    estimate_norms(network, IMAGES, PREPROCESSING)
    first = copy.deepcopy(network.state_dict())
    estimate_norms(network, IMAGES, PREPROCESSING)
    torch.testing.assert_close(network.state_dict(), first, rtol=0, atol=1e-6)
