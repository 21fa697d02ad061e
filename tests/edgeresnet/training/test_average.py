import dataclasses

import pytest
import torch

from edgeresnet.cifar10 import CIFAR10_MEAN, CIFAR10_STD
from edgeresnet.datasets import hold_out, read_split
from edgeresnet.errors import CheckpointError, DataError
from edgeresnet.evaluation import collect_logits, top1
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import ImageInput
from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.average import average_weights
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights, save_weights

CPU = torch.device("cpu")
HELD_OUT = 0.2


CIFAR = Preprocessing(input=ImageInput.of(16), mean=CIFAR10_MEAN, std=CIFAR10_STD)


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """Weights that tell the two classes apart."""
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.02, image_size=16, cutout=4, validation_fraction=HELD_OUT, ema_decay=0.9)
    return run_training(config, image_folder, tmp_path_factory.mktemp("run"), device=CPU).weights


@pytest.fixture
def pair(trained, tmp_path):
    """Two files on either side of ``trained``: their mean is those weights."""
    network = load_weights(trained)
    state = network.model.network.state_dict()
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: 0.7 * value.std() * torch.randn(value.shape, generator=generator) if value.ndim > 1 else torch.zeros_like(value)
        for name, value in state.items()
    }
    for name, sign in (("plus", 1), ("minus", -1)):
        save_weights(tmp_path / name, {key: value + sign * noise[key] for key, value in state.items()}, network.spec)
    return tmp_path / "plus", tmp_path / "minus"


def test_the_average_is_better_than_its_parts_and_knows_its_accuracy(trained, pair, image_folder, tmp_path):
    lines = []
    target = tmp_path / "average.safetensors"
    result = average_weights(pair, image_folder, target, validation_fraction=HELD_OUT, report=lines.append)
    assert result.average.loss < min(member.loss for member in result.members)
    assert [line.split(":")[0] for line in lines] == [str(pair[0]), str(pair[1]), "normalization estimated anew", "average"]
    assert [line.endswith("on 10 held-out images") for line in lines] == [True, True, False, True]
    averaged, expected = load_weights(target), load_weights(trained).model.network.state_dict()
    for name, value in averaged.model.network.state_dict().items():
        if value.is_floating_point() and "running" not in name:
            torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-3)
    test = read_split(image_folder, "test", size=16)
    assert averaged.spec.accuracy == result.accuracy
    assert result.accuracy.top1 == top1(collect_logits(averaged, test.images, ""), test.labels) >= 0.9


def test_weights_that_began_apart_are_not_averaged(trained, image_folder, tmp_path):
    spec = load_weights(trained).spec
    stranger = TrainingState.new(TrainingConfig(seed=9), spec.labels, CPU).network
    save_weights(tmp_path / "stranger", stranger.state_dict(), spec)
    with pytest.raises(CheckpointError, match="no better than its parts"):
        average_weights([trained, tmp_path / "stranger"], image_folder, tmp_path / "average", validation_fraction=HELD_OUT)
    assert [path.name for path in tmp_path.iterdir()] == ["stranger"]


def test_weights_and_data_must_belong_together(trained, image_folder, tmp_path):
    network = load_weights(trained)
    save_weights(tmp_path / "other", network.model.network.state_dict(), dataclasses.replace(network.spec, labels=("a", "b")))
    with pytest.raises(CheckpointError, match="other classes or another image size"):
        average_weights([trained, tmp_path / "other"], image_folder, tmp_path / "average", validation_fraction=HELD_OUT)
    with pytest.raises(DataError, match="its classes are not those of the weights"):
        average_weights([tmp_path / "other"] * 2, image_folder, tmp_path / "average", validation_fraction=HELD_OUT)


def test_an_average_that_is_better_than_one_part_alone_is_not_written(trained, pair, image_folder, tmp_path):
    near, part = load_weights(trained), load_weights(pair[0]).model.network.state_dict()
    state = near.model.network.state_dict()
    save_weights(tmp_path / "far", {name: value + 3 * (part[name] - value) for name, value in state.items()}, near.spec)
    target = tmp_path / "average.safetensors"
    with pytest.raises(CheckpointError, match="no better than its parts"):
        average_weights([trained, trained, tmp_path / "far"], image_folder, target, validation_fraction=HELD_OUT)
    assert not target.exists()


def test_the_averages_statistics_are_of_the_images_that_were_trained_on(pair, image_folder, tmp_path):
    """Not of those that were held out, on which it is judged, and not the mean of the statistics of the parts."""
    target = tmp_path / "average.safetensors"
    average_weights(pair, image_folder, target, validation_fraction=HELD_OUT)
    averaged = load_weights(target).model.network
    training, _ = hold_out(read_split(image_folder, "train", size=16), HELD_OUT)
    with torch.no_grad():
        features = averaged.conv1(normalize(torch.from_numpy(training.images), *normalization(CIFAR, CPU), 16))
    torch.testing.assert_close(averaged.bn1.running_mean, features.mean((0, 2, 3)), rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(averaged.bn1.running_var, features.var((0, 2, 3)), rtol=1e-2, atol=1e-3)
