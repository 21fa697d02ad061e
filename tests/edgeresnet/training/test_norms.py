import copy

import numpy as np
import pytest
import torch

from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import synthetic_images
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import ImageInput
from edgeresnet.training import norms
from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.loop import evaluate
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.norms import estimate_norms, renew_norms

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


@pytest.mark.parametrize(("images", "is_taken"), [(IMAGES, True), (255 - IMAGES, False)])
def test_statistics_are_renewed_if_held_out_images_are_answered_no_worse(images, is_taken):
    """The labels are the answers with the statistics of ``IMAGES``: those of others make them worse, and spoiled ones are worse still."""
    network = build_resnet18(3).requires_grad_(False)
    network.layer1[0].bn2.weight.fill_(1)
    estimate_norms(network, IMAGES, PREPROCESSING)
    answers = network(normalize(torch.from_numpy(IMAGES), *normalization(PREPROCESSING, torch.device("cpu")), 16))
    # Sure of itself, so that every change is a loss.
    network.fc.weight.mul_(20), network.fc.bias.mul_(20)
    held_out = LabelledImages(images=IMAGES, labels=answers.argmax(1).numpy().astype(np.int64), classes=tuple("abc"), name="generated")
    if is_taken:
        network.bn1.running_mean.fill_(7)
    before, lines = copy.deepcopy(network.state_dict()), []
    measured = renew_norms(network, images, held_out, PREPROCESSING, report=lines.append)
    assert measured == evaluate(network, held_out, PREPROCESSING)
    assert lines[0].endswith("taken" if is_taken else "left as it was")
    after = network.state_dict()
    same = [name for name, value in before.items() if torch.equal(after[name], value)]
    assert ("bn1.running_mean" not in same) if is_taken else same == list(before)
    assert not network.training
