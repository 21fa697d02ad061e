"""What a run shows its network, what each step makes of it, and what is delivered, against computations of their own."""

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from edgeresnet.datasets import hold_out, read_split
from edgeresnet.errors import DataError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.spec import ImageInput, ModelSpec
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.loop import evaluate, train
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.norms import estimate_norms
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights, save_weights

CPU = torch.device("cpu")
SIZE = 8
# Not the usual settings, so that one which does not arrive shows.
CONFIG = TrainingConfig(
    epochs=2,
    batch_size=5,
    lr=0.1,
    momentum=0.7,
    weight_decay=0.02,
    warmup_fraction=0.4,
    label_smoothing=0.3,
    ema_decay=0.3,
    crop_padding=2,
    cutout=3,
    image_size=SIZE,
    validation_fraction=0.2,
    seed=4,
)
# CIFAR-10's, which exported files normalize with.
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
PREPROCESSING = Preprocessing(input=ImageInput.of(SIZE), mean=tuple(MEAN.tolist()), std=tuple(STD.tolist()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes in splits that differ in size and content, larger than what is trained on."""
    folder = tmp_path_factory.mktemp("insects")
    images = iter(synthetic_images(SIZE, 40, seed=5))
    for split, counts in (("train", (10, 9, 8)), ("test", (4, 3, 5))):
        for label, count in zip(("ant", "bee", "fly"), counts, strict=True):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(next(images)).save(folder / split / label / f"{number}.png")
    return folder


def normalize_by_hand(images):
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W)."""
    return ((torch.from_numpy(images) / 255 - MEAN) / STD).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def recorded(data):
    """A run with all that its network was shown."""
    training, validation = hold_out(read_split(data, "train", size=SIZE), CONFIG.validation_fraction)
    state = TrainingState.new(CONFIG, training.classes, CPU)
    run = SimpleNamespace(training=training, validation=validation, state=state, shown=[], averages=[])
    run.begun = copy.deepcopy(state.network)
    hook = state.network.register_forward_pre_hook(lambda module, inputs: run.shown.append(inputs[0].clone()))
    train(CONFIG, state, training, validation, after_epoch=lambda record: run.averages.append(copy.deepcopy(state.average)))
    hook.remove()
    run.steps = [[find_source(image, training.images) for image in batch] for batch in run.shown]
    return run


def find_source(image, images):
    """Which image this one was made of: its number, whether it was mirrored, how it was shifted, and where it was painted over."""
    fill = (MEAN * 255).round()
    pixels = image.permute(1, 2, 0) * STD * 255 + MEAN * 255
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-2)
    pixels = pixels.round()
    padded = functional.pad(torch.from_numpy(images).permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect").permute(0, 2, 3, 1)
    found = []
    for mirrored in (False, True):
        upright = pixels.flip(1) if mirrored else pixels
        for y in range(5):
            for x in range(5):
                differs = (padded[:, y : y + SIZE, x : x + SIZE] != upright).any(-1)
                for number in (differs.sum((1, 2)) <= CONFIG.cutout**2).nonzero().flatten().tolist():
                    if (upright[differs[number]] == fill).all():
                        painted = (pixels == fill).all(-1)
                        found.append(SimpleNamespace(number=number, mirrored=mirrored, shift=(y, x), painted=painted))
    (source,) = found
    return source


def test_the_network_is_shown_normalized_windows_of_the_training_images(recorded):
    count, batch = len(recorded.training), CONFIG.batch_size
    assert (count, len(recorded.steps)) == (21, 2 * (count // batch))
    epochs = [[source for step in recorded.steps[4 * epoch : 4 * epoch + 4] for source in step] for epoch in (0, 1)]
    orders = [[source.number for source in epoch] for epoch in epochs]
    for order in orders:
        assert len(set(order)) == len(order) == 20
        assert order != sorted(order)
    assert orders[0] != orders[1]


def test_an_image_is_mirrored_in_every_other_epoch(recorded):
    first, second = ({s.number: s.mirrored for step in steps for s in step} for steps in (recorded.steps[:4], recorded.steps[4:]))
    both = first.keys() & second.keys()
    assert len(both) >= 19
    assert all(first[number] != second[number] for number in both)
    assert 4 <= sum(first.values()) <= 16


def test_every_step_has_crops_and_squares_of_its_own(recorded):
    shifts = [tuple(source.shift for source in step) for step in recorded.steps]
    assert len(set(shifts)) == len(shifts)
    assert {size for step in shifts for shift in step for size in shift} == {0, 1, 2, 3, 4}
    painted = [source.painted for step in recorded.steps for source in step]
    assert max(int(mask.sum()) for mask in painted) == CONFIG.cutout**2
    assert min(int(mask.sum()) for mask in painted) >= 4
    assert len({mask.numpy().tobytes() for mask in painted}) > 15


def replay(run, config):
    """The same run as plain arithmetic: stochastic gradient descent with Nesterov's momentum, and a moving average."""
    network, average = copy.deepcopy(run.begun).train(), copy.deepcopy(run.begun)
    velocity = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    losses, right, rates, averages = [], [], [], []
    total = len(run.shown)
    for step, (inputs, sources) in enumerate(zip(run.shown, run.steps, strict=True)):
        targets = torch.from_numpy(run.training.labels[[source.number for source in sources]])
        logs = network(inputs).log_softmax(1)
        smooth = config.label_smoothing
        loss = -(1 - smooth) * logs[torch.arange(len(targets)), targets].mean() - smooth * logs.mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        warmup, position = config.warmup_fraction * total, step + 0.5
        rate = config.lr * (position / warmup if position < warmup else (total - position) / (total - warmup))
        with torch.no_grad():
            for (name, value), gradient in zip(network.named_parameters(), gradients, strict=True):
                decayed = gradient + (config.weight_decay * value if value.ndim > 1 else 0)
                velocity[name] = config.momentum * velocity[name] + decayed
                value.sub_(rate * (decayed + config.momentum * velocity[name]))
            keep = min(config.ema_decay, (2 + step) / (11 + step))
            for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.copy_(keep * old + (1 - keep) * new)
        losses.append(float(loss.detach()))
        right.append(float((logs.argmax(1) == targets).float().mean()))
        rates.append(rate)
        if step % 4 == 3:
            averages.append(copy.deepcopy(average).eval())
    return SimpleNamespace(network=network, average=average, losses=losses, right=right, rates=rates, averages=averages)


@pytest.fixture(scope="module")
def replayed(recorded):
    return replay(recorded, CONFIG)


def distance(network, other):
    """The largest of all tensors' distances, each relative to its tensor's size."""
    state = other.state_dict()
    pairs = [(value.detach(), state[name].detach()) for name, value in network.state_dict().items() if value.is_floating_point()]
    return max(((value - expected).norm() / expected.norm().clamp(min=1e-4)).item() for value, expected in pairs)


# Rounding alone makes 2e-4 on two threads and 2e-2 on one; a momentum of 0.69 instead of 0.7 makes 1.4.
ROUNDING = 5e-2


def test_the_steps_are_those_of_plain_sgd_with_nesterovs_momentum(recorded, replayed):
    assert distance(recorded.state.network, replayed.network) < ROUNDING
    assert distance(recorded.begun, replayed.network) > 0.5


def test_the_average_is_the_moving_one_of_the_network(recorded, replayed):
    assert distance(recorded.state.average, replayed.average) < ROUNDING
    assert distance(recorded.state.network, replayed.average) > 2e-2


def test_the_log_has_the_figures_of_each_epoch(recorded, replayed):
    for epoch, record in enumerate(recorded.state.history):
        steps = slice(4 * epoch, 4 * epoch + 4)
        assert record.train_loss == pytest.approx(np.mean(replayed.losses[steps]), rel=ROUNDING / 10)
        assert record.train_top1 == pytest.approx(np.mean(replayed.right[steps]))
        assert record.lr == pytest.approx(replayed.rates[steps][-1])
        with torch.no_grad():
            logits = recorded.averages[epoch](normalize_by_hand(recorded.validation.images))
        labels = torch.from_numpy(recorded.validation.labels)
        assert record.validation_loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-3)
        assert record.validation_top1 == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
        assert record.images_per_s == pytest.approx(20 / record.seconds)
        assert (record.epoch, record.image_size) == (epoch + 1, SIZE)


@pytest.mark.parametrize("amp", [False, True])
def test_bfloat16_is_used_where_it_was_asked_for(recorded, amp):
    config = TrainingConfig(epochs=1, batch_size=16, image_size=SIZE, amp=amp)
    state = TrainingState.new(config, recorded.training.classes, CPU)
    kinds = set()
    state.network.layer1[0].conv1.register_forward_hook(lambda module, inputs, outputs: kinds.add(outputs.dtype))
    train(config, state, recorded.training, recorded.validation, after_epoch=lambda record: None)
    assert kinds == {torch.bfloat16 if amp else torch.float32}
    assert state.network.conv1.weight.dtype == torch.float32


# --- a whole run


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    result = run_training(CONFIG, data, output, device=CPU)
    return SimpleNamespace(output=output, result=result, state=TrainingState.load(output / "state.pt", CPU)[0])


def estimate_by_hand(network, images):
    """The network with norms whose statistics are those of all images at once."""
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(normalize_by_hand(images))
    return network.eval()


def test_delivered_are_the_averaged_weights_with_the_statistics_that_suit_held_out_images(finished, data):
    training, validation = hold_out(read_split(data, "train", size=SIZE), CONFIG.validation_fraction)
    candidates = [finished.state.average, estimate_by_hand(finished.state.average, training.images)]
    expected, other = sorted(candidates, key=lambda network: evaluate(network, validation, PREPROCESSING).loss)
    delivered = load_weights(finished.result.weights).model.network
    assert distance(delivered, expected) < 4e-3  # half precision alone is 3e-3 of a norm
    for wrong in (other, finished.state.network, estimate_by_hand(finished.state.network, training.images)):
        assert distance(delivered, wrong) > 2e-2


def test_the_accuracy_is_that_of_the_file_on_the_whole_test_split(finished, data):
    test = read_split(data, "test", size=SIZE)
    network = build_resnet18(3)
    network.load_state_dict(load_file(finished.result.weights), strict=False)
    with torch.no_grad():
        answers = network.float().eval()(normalize_by_hand(test.images)).argmax(1).numpy()
    accuracy = finished.result.accuracy
    assert (accuracy.top1, accuracy.count, accuracy.data) == (np.mean(answers == test.labels), 12, test.name)
    assert 0 < accuracy.top1 < 1
    spec = load_weights(finished.result.weights).spec
    assert spec.accuracy == accuracy
    assert spec.labels == ("ant", "bee", "fly")
    assert (spec.mean, spec.std) == (pytest.approx(MEAN.tolist()), pytest.approx(STD.tolist()))


CHANNEL = 5
STILL = TrainingConfig(epochs=1, batch_size=21, lr=1e-30, image_size=SIZE, validation_fraction=0.2)


@pytest.fixture(scope="module")
def oversized(data, tmp_path_factory):
    """Weights of which a channel is hundreds of times as large as the others, and nothing reads it."""
    training, _ = hold_out(read_split(data, "train", size=SIZE), STILL.validation_fraction)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_resnet18(3).requires_grad_(False)
        for block in (*network.layer1, *network.layer2, *network.layer3, *network.layer4):
            nn.init.ones_(block.bn2.weight)
    network.bn1.weight[CHANNEL] = 500.0
    for layer in (network.layer1[0].conv1, network.layer1[1].conv1, network.layer2[0].conv1, network.layer2[0].downsample[0]):
        layer.weight[:, CHANNEL] = 0
    estimate_norms(network, training.images, PREPROCESSING)
    path = tmp_path_factory.mktemp("oversized") / "weights.safetensors"
    names = {"architecture": "resnet18-cifar", "precision": "fp32", "checkpoint_sha256": ""}
    spec = ModelSpec(labels=training.classes, input=ImageInput.of(SIZE), mean=tuple(MEAN.tolist()), std=tuple(STD.tolist()), **names)
    save_weights(path, network.state_dict(), spec)
    return path


def test_a_run_silences_useless_outliers_by_the_loss_on_held_out_images(data, oversized, tmp_path):
    lines = []
    result = run_training(STILL, data, tmp_path, device=CPU, init=oversized, report=lines.append)
    delivered = load_weights(result.weights).model.network
    assert load_weights(oversized).model.network.bn1.weight[CHANNEL].item() == 500
    for norm in (delivered.bn1, delivered.layer1[0].bn2, delivered.layer1[1].bn2):
        assert (norm.weight[CHANNEL].item(), norm.bias[CHANNEL].item()) == (0, 0)
    (line,) = [line for line in lines if line.startswith("stage 1")]
    assert line.endswith("silenced")
    training, validation = hold_out(read_split(data, "train", size=SIZE), STILL.validation_fraction)
    average = TrainingState.load(tmp_path / "state.pt", CPU)[0].average
    if any(line.startswith("normalization") and line.endswith("taken") for line in lines):
        estimate_norms(average, training.images, PREPROCESSING)
    told = float(re.search(r"goes from ([\d.]+) to", line).group(1))
    assert told == pytest.approx(evaluate(average, validation, PREPROCESSING).loss, abs=1e-3)
    assert abs(told - evaluate(average, training, PREPROCESSING).loss) > 5e-3


def test_a_test_split_that_lacks_a_class_is_found_out_before_the_training(data, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for label in ("ant", "bee", "fly"):
            (tmp_path / "data" / split / label).symlink_to(data / split / label)
    (tmp_path / "data" / "test" / "fly").unlink()
    (tmp_path / "data" / "train" / "ant" / "loop").symlink_to(tmp_path / "data" / "train")
    with pytest.raises(DataError, match=r"the test split has other classes than the training split: it lacks fly"):
        run_training(STILL, tmp_path / "data", tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
