"""Runs that learn from a larger network's answers."""

import dataclasses
import re
import signal

import numpy as np
import pytest
import torch

from edgeresnet.datasets import read_split
from edgeresnet.errors import CheckpointError
from edgeresnet.training.augmentation import normalization
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.distillation import build_teacher, distillation_loss
from edgeresnet.training.pixels import PixelClassifier
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.states import read_state
from edgeresnet.training.step import Batch, Step
from edgeresnet.training.weights import load_weights, save_weights

CPU = torch.device("cpu")
# The smallest network at hand, since many runs are made of it here.
NETWORK = "timm:test_efficientnet"
SIZE = 32
CONFIG = dataclasses.replace(
    TrainingConfig.for_network(NETWORK, SIZE),
    epochs=4,
    batch_size=8,
    lr=0.02,
    validation_fraction=0.2,
    ema_decay=0.9,
    distillation_share=1.0,
)


@pytest.fixture(scope="module")
def teacher(image_folder, tmp_path_factory):
    """A network that tells red from green, and has them the wrong way round."""
    folder = tmp_path_factory.mktemp("teacher")
    trained = load_weights(run_training(CONFIG, image_folder, folder, device=CPU).weights)
    state = trained.model.network.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].flip(0)
    path = folder / "swapped.safetensors"
    save_weights(path, state, dataclasses.replace(trained.spec, accuracy=None))
    return path


@pytest.fixture(scope="module")
def learned(image_folder, teacher, tmp_path_factory):
    """A run that learned from its answers alone."""
    folder = tmp_path_factory.mktemp("learned")
    return folder, run_training(CONFIG, image_folder, folder, device=CPU, teacher=teacher)


def test_the_loss_is_the_divergence_of_softened_answers():
    generator = np.random.default_rng(0)
    logits, answers = generator.normal(0, 3, (2, 6, 5)).astype(np.float32)
    for temperature in (1.0, 4.0):
        own, wanted = (values / temperature - np.log(np.exp(values / temperature).sum(1, keepdims=True)) for values in (logits, answers))
        expected = temperature**2 * (np.exp(wanted) * (wanted - own)).sum(1).mean()
        found = distillation_loss(torch.from_numpy(logits), torch.from_numpy(answers), temperature)
        assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(torch.from_numpy(answers), torch.from_numpy(answers), 2.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("share", "mirrored"), [(0.25, False), (1.0, False), (0.25, True)])
def test_a_step_weighs_labels_and_answers(teacher, share, mirrored):
    config = dataclasses.replace(CONFIG, distillation_share=share, distillation_temperature=3.0, distillation_mirrored=mirrored)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randint(0, 256, (8, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8), *torch.zeros(2, 8, dtype=torch.int64), 1.0
    )
    model = build_teacher(read_state(teacher), None, config, ("green", "red"), CPU)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = {}
    for name, given in (("labels", None), ("both", model)):
        state = TrainingState.new(config, ("green", "red"), CPU)
        state.network.eval()  # so that the network is the same function in every step
        step = Step(config, state, state.network, normalization(state.preprocessing, CPU), as_graph=False, teacher=given)
        with torch.no_grad():
            own = PixelClassifier(state.network, state.preprocessing.mean, state.preprocessing.std)
            answers, of_mirrored = model(batch.images), model(torch.from_numpy(batch.images.numpy()[:, :, ::-1].copy()))
            assert (answers - of_mirrored).abs().max() > 0.01
            taught = distillation_loss(own(batch.images), (answers + of_mirrored) / 2 if mirrored else answers, 3.0)
        losses[name] = float(step.take(batch, SIZE, 1.0)[0]) / 8
    assert losses["both"] == pytest.approx((1 - share) * losses["labels"] + share * float(taught), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_learns_what_the_teacher_says_even_where_the_labels_say_otherwise(learned, teacher, image_folder):
    _, result = learned
    assert load_weights(teacher).spec.accuracy is None
    assert result.accuracy.top1 <= 0.1
    labels = run_training(CONFIG, image_folder, learned[0] / "labels", device=CPU)
    assert labels.accuracy.top1 >= 0.9
    settings = TrainingConfig.from_json((learned[0] / "config.json").read_text())
    assert settings == dataclasses.replace(CONFIG, teacher_sha256=load_weights(teacher).spec.checkpoint_sha256)


def test_an_interrupted_run_resumes_exactly_with_its_teacher_and_not_without(learned, teacher, image_folder, tmp_path):
    def track(iterable, description, total=None):
        for number, step in enumerate(iterable):
            if description.startswith("epoch 2") and number == 1:
                signal.raise_signal(signal.SIGINT)  # as Ctrl-C would
            yield step

    assert not run_training(CONFIG, image_folder, tmp_path, device=CPU, teacher=teacher, track=track).finished
    with pytest.raises(CheckpointError, match=r"learns from the weights with SHA-256 .* give that file \(--teacher\)"):
        run_training(None, image_folder, tmp_path, device=CPU)
    assert run_training(None, image_folder, tmp_path, device=CPU, teacher=teacher).finished
    ours, theirs = (TrainingState.load(folder / "state.pt", CPU)[0].network.state_dict() for folder in (tmp_path, learned[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_teacher_has_to_fit_the_run(learned, teacher, image_folder, tmp_path):
    trained = load_weights(teacher)
    with pytest.raises(CheckpointError, match="takes images of 32 x 32, and the run's are of 48 x 48"):
        run_training(dataclasses.replace(CONFIG, image_size=48), image_folder, tmp_path / "a", device=CPU, teacher=teacher)
    state = trained.model.network.state_dict()
    for changes, message in (
        ({"labels": ("red", "green")}, re.escape("classes (red, green, ...)")),
        ({"output": "probabilities"}, "softmax"),
    ):
        save_weights(tmp_path / "other", state, dataclasses.replace(trained.spec, **changes))
        with pytest.raises(CheckpointError, match=message):
            run_training(CONFIG, image_folder, tmp_path / "b", device=CPU, teacher=tmp_path / "other")
    other = dataclasses.replace(CONFIG, teacher_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="learns from the weights with SHA-256 0000"):
        run_training(other, image_folder, tmp_path / "c", device=CPU, teacher=teacher)
    with pytest.raises(CheckpointError, match="the run began without a teacher"):
        run_training(None, image_folder, learned[0] / "labels", device=CPU, teacher=teacher)
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_all_images_of_a_step_are_asked_about_at_the_size_of_the_teacher(teacher, image_folder, tmp_path):
    """Also in epochs at smaller ones, which the teacher does not know."""
    seen = []
    model = build_teacher(read_state(teacher), None, CONFIG, ("green", "red"), CPU)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    state = TrainingState.new(CONFIG, ("green", "red"), CPU)
    images = torch.from_numpy(read_split(image_folder, "train", size=load_weights(teacher).spec.input).images[:8])
    step = Step(CONFIG, state, state.network, normalization(state.preprocessing, CPU), as_graph=False, teacher=model)
    step.take(Batch(images, *torch.zeros(2, 8, dtype=torch.int64), 1.0), 24, 1.0)
    assert seen == [(8, SIZE, SIZE, 3)]


def test_weights_from_elsewhere_teach_if_the_user_names_their_network(teacher, image_folder, tmp_path, monkeypatch):
    """They are taken for the classes and the image size of the run, since nothing else is known of them."""
    trained = load_weights(teacher)
    torch.save(trained.model.network.state_dict(), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="do not say what they are; fix: name their network with --teacher-network"):
        run_training(CONFIG, image_folder, tmp_path / "run", device=CPU, teacher=tmp_path / "state.pt")
    found = build_teacher(read_state(tmp_path / "state.pt"), NETWORK, CONFIG, ("green", "red"), CPU)
    images = torch.from_numpy(read_split(image_folder, "test", size=trained.spec.input).images)
    torch.testing.assert_close(found(images), trained.model(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(CheckpointError, match="2 classes"):
        build_teacher(read_state(tmp_path / "state.pt"), NETWORK, CONFIG, ("blue", "green", "red"), CPU)
    (tmp_path / "strangers.py").write_text(
        "from torch import nn\n\ndef build(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not say how pixels were normalized; fix: a teacher that was trained by"):
        build_teacher(read_state(tmp_path / "state.pt"), "strangers:build", CONFIG, ("green", "red"), CPU)
