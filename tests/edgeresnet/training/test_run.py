import csv
import dataclasses
import shutil
import signal

import pytest
import torch
from PIL import Image

from edgeresnet.errors import CheckpointError, DataError, TrainingError
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    epochs=4, batch_size=8, lr=0.02, image_size=16, small_sizes=((1, 8),), cutout=4, validation_fraction=0.2, ema_decay=0.9
)


@pytest.fixture(scope="module")
def whole(image_folder, tmp_path_factory):
    """A run of four epochs in one go."""
    output = tmp_path_factory.mktemp("whole")
    result = run_training(CONFIG, image_folder, output, device=CPU)
    return output, result


def test_a_run_ends_with_weights_that_know_their_accuracy(whole):
    output, result = whole
    assert result.finished
    network = load_weights(output / "weights.safetensors")
    assert network.spec.labels == ("green", "red")
    assert network.spec.image_size == 16
    assert network.spec.accuracy == result.accuracy
    assert result.accuracy.count == 16
    assert result.accuracy.top1 >= 0.9


def test_a_run_leaves_a_log_a_plot_and_its_settings(whole):
    output, _ = whole
    rows = list(csv.DictReader((output / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["image_size"] for row in rows] == ["8", "16", "16", "16"]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    with Image.open(output / "curves.png") as plot:
        assert plot.width > 500
    assert TrainingConfig.from_json((output / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize("steps", [3, 8, 10])
def test_an_interrupted_run_resumes_exactly(whole, image_folder, tmp_path, steps):
    """Two epochs and two more equal four, and so does a stop in the middle of an epoch (an epoch has four steps)."""
    seen = 0

    def track(iterable, description, total=None):
        nonlocal seen
        for step in iterable:
            if description.startswith("epoch"):
                seen += 1
                if seen == steps:
                    signal.raise_signal(signal.SIGINT)  # as Ctrl-C would, in the middle of a step
            yield step

    first = run_training(CONFIG, image_folder, tmp_path, device=CPU, track=track)
    assert not first.finished
    assert first.epochs_done == steps // 4
    assert not (tmp_path / "weights.safetensors").exists()
    assert TrainingState.load(tmp_path / "state.pt", CPU)[0].step == steps
    second = run_training(None, image_folder, tmp_path, device=CPU)
    assert second.finished
    interrupted, _ = TrainingState.load(tmp_path / "state.pt", CPU)
    straight, _ = TrainingState.load(whole[0] / "state.pt", CPU)
    for part in ("network", "average"):
        ours, theirs = getattr(interrupted, part).state_dict(), getattr(straight, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    timeless = [dataclasses.replace(r, seconds=0, images_per_s=0) for r in interrupted.history]
    assert timeless == [dataclasses.replace(r, seconds=0, images_per_s=0) for r in straight.history]


@pytest.mark.parametrize(("pause", "epochs"), [(0.0, [1, 2, 3]), (1e9, [1, 1, 3])])
def test_the_state_is_written_when_the_last_one_is_some_time_old_and_at_the_end(image_folder, tmp_path, monkeypatch, pause, epochs):
    monkeypatch.setattr("edgeresnet.training.run.SAVE_EVERY_S", pause)
    found = []

    def look(line):
        if line.startswith("epoch"):
            found.append(len(TrainingState.load(tmp_path / "state.pt", CPU)[0].history))
            assert len((tmp_path / "log.csv").read_text().splitlines()) == len(found) + 1

    config = dataclasses.replace(CONFIG, epochs=3, image_size=8, crop_padding=2, small_sizes=())
    run_training(config, image_folder, tmp_path, device=CPU, report=look)
    assert found == epochs


def test_strong_augmentation_is_a_matter_of_the_settings(image_folder, tmp_path):
    """The same steps with it and without it end apart, and a run with it is as exact as any other."""
    config = dataclasses.replace(CONFIG, epochs=1, image_size=8, crop_padding=2, small_sizes=())
    ends = []
    for number, changes in enumerate(({}, {"trivial_augment": True}, {"cutmix": 1.0}, {"cutmix": 1.0})):
        run_training(dataclasses.replace(config, **changes), image_folder, tmp_path / str(number), device=CPU)
        ends.append(load_weights(tmp_path / str(number) / "weights.safetensors").model.network.fc.weight)
    assert torch.equal(ends[2], ends[3])
    assert all(not torch.equal(ends[0], end) for end in ends[1:3])


def test_the_seed_decides_the_outcome(whole, image_folder, tmp_path):
    run_training(dataclasses.replace(CONFIG, seed=1), image_folder, tmp_path, device=CPU)
    ours, theirs = load_weights(tmp_path / "weights.safetensors"), load_weights(whole[0] / "weights.safetensors")
    assert not torch.equal(ours.model.network.fc.weight, theirs.model.network.fc.weight)


def test_data_without_a_test_split_trains_and_says_so(image_folder, tmp_path):
    shutil.copytree(image_folder / "train", tmp_path / "data" / "train")
    lines = []
    config = dataclasses.replace(CONFIG, epochs=1, small_sizes=())
    result = run_training(config, tmp_path / "data", tmp_path / "run", device=CPU, report=lines.append)
    assert result.finished
    assert result.accuracy is None
    assert any("no test split" in line for line in lines)


def test_a_run_is_not_overwritten_and_not_mixed_up(whole, image_folder, tmp_path):
    output, _ = whole
    with pytest.raises(CheckpointError, match="holds a run already"):
        run_training(CONFIG, image_folder, output, device=CPU)
    with pytest.raises(CheckpointError, match="no training state"):
        run_training(None, image_folder, tmp_path, device=CPU)
    shutil.copytree(image_folder, tmp_path / "data")
    (tmp_path / "data" / "train" / "red").rename(tmp_path / "data" / "train" / "blue")
    with pytest.raises(CheckpointError, match="other classes"):
        run_training(None, tmp_path / "data", output, device=CPU)
    content = (output / "state.pt").read_bytes()
    for broken in (b"", b"junk", content[: len(content) // 2]):
        (tmp_path / "state.pt").write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a training state"):
            run_training(None, image_folder, tmp_path, device=CPU)
    torch.save({**torch.load(output / "state.pt"), "format": "edgeresnet.training-state/1"}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"has format .*training-state/1', this release reads"):
        run_training(None, image_folder, tmp_path, device=CPU)


def test_a_run_begins_with_given_weights_and_keeps_a_head_that_fits(whole, image_folder, tmp_path):
    trained = load_weights(whole[0] / "weights.safetensors")
    barely = dataclasses.replace(CONFIG, epochs=1, small_sizes=(), lr=1e-9)
    result = run_training(barely, image_folder, tmp_path / "same", device=CPU, init=whole[0] / "weights.safetensors")
    tuned = load_weights(result.weights).model.network.state_dict()
    for name, value in trained.model.network.state_dict().items():
        if "running" not in name and value.is_floating_point():
            torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-3)
    settings = TrainingConfig.from_json((tmp_path / "same" / "config.json").read_text())
    assert settings.init_sha256 == trained.spec.checkpoint_sha256

    shutil.copytree(image_folder, tmp_path / "data")
    for split in ("train", "test"):
        shutil.copytree(tmp_path / "data" / split / "red", tmp_path / "data" / split / "rose")
    result = run_training(barely, tmp_path / "data", tmp_path / "other", device=CPU, init=whole[0] / "weights.safetensors")
    other = load_weights(result.weights).model.network
    assert other.fc.weight.shape == (3, 512)
    torch.testing.assert_close(other.layer4[1].conv2.weight, trained.model.network.layer4[1].conv2.weight, rtol=0, atol=1e-3)


def test_a_recipe_that_names_its_beginning_wants_that_file(whole, weights, image_folder, tmp_path):
    recipe = dataclasses.replace(CONFIG, init_sha256=load_weights(weights).spec.checkpoint_sha256)
    for given in (None, whole[0] / "weights.safetensors"):
        with pytest.raises(CheckpointError, match="the recipe begins from the weights with SHA-256"):
            run_training(recipe, image_folder, tmp_path, device=CPU, init=given)
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_learned_from_is_refused(image_folder, tmp_path):
    shutil.copytree(image_folder / "train" / "red", tmp_path / "train" / "red")
    with pytest.raises(DataError, match="nothing to tell apart"):
        run_training(CONFIG, tmp_path, tmp_path / "run", device=CPU)
    (tmp_path / "train" / "green").mkdir()
    shutil.copy(image_folder / "train" / "green" / "000.png", tmp_path / "train" / "green")
    with pytest.raises(DataError, match="'green' has 1 image"):
        run_training(CONFIG, tmp_path, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_the_learning_rate_rises_and_falls_to_zero():
    config = TrainingConfig(warmup_fraction=0.25)
    rates = [config.lr_fraction_at(step, 100) for step in range(100)]
    assert rates[:25] == sorted(rates[:25])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[0] == pytest.approx(0.02)
    assert rates[24] == pytest.approx(0.98)
    assert rates[99] == pytest.approx(0.5 / 75)


@pytest.mark.parametrize(
    "settings",
    [
        *({"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": float("nan")}, {"image_size": 4}, {"small_sizes": ((30, 16),)}),
        *(
            {"seed": -1},
            {"validation_fraction": 0.0},
            {"ema_decay": 1.0},
            {"cutout": -1},
            {"label_smoothing": 1.0},
            {"muon_lr": -0.1},
            {"cutmix": 1.5},
        ),
    ],
)
def test_senseless_settings_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match="stages at small sizes" if name == "small_sizes" else name.replace("image_size", "image size")):
        TrainingConfig(**settings)


def test_weight_decay_spares_norms_and_biases():
    state = TrainingState.new(CONFIG, ("a", "b"), CPU)
    decay = {p.ndim: group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    assert decay == {4: 5e-4, 2: 5e-4, 1: 0.0}


def test_uneven_classes_are_pointed_out(image_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(image_folder, data)
    for path in sorted((data / "train" / "green").iterdir())[8:]:
        path.unlink()
    lines = []
    run_training(dataclasses.replace(CONFIG, epochs=1, small_sizes=()), data, tmp_path / "run", device=CPU, report=lines.append)
    (found,) = [line for line in lines if line.startswith("uneven classes")]
    assert "24 images of 'red', 8 of 'green', 3.0 to 1" in found
    lines.clear()
    run_training(dataclasses.replace(CONFIG, epochs=1, small_sizes=()), image_folder, tmp_path / "even", device=CPU, report=lines.append)
    assert not [line for line in lines if "uneven" in line]


def test_a_run_that_diverges_says_so(image_folder, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step \d+ of 16: the run has diverged; fix: .*--lr"):
        run_training(dataclasses.replace(CONFIG, lr=1e20), image_folder, tmp_path, device=CPU)


def test_a_run_does_not_go_on_with_other_images(whole, image_folder, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.copytree(image_folder, tmp_path / "data")
    log = (tmp_path / "run" / "log.csv").read_text()
    victim = tmp_path / "data" / "train" / "red" / "000.png"
    for change in ("repainted", "removed"):
        victim.write_bytes((victim.parent / "001.png").read_bytes())
        if change == "removed":
            victim.unlink()
        with pytest.raises(CheckpointError, match=r"images have changed since the run began \(48 images, SHA-256 \w{16}; now 4[78] images"):
            run_training(None, tmp_path / "data", tmp_path / "run", device=CPU)
    assert (tmp_path / "run" / "log.csv").read_text() == log


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda test: shutil.rmtree(test / "red"), "it lacks red; fix"),
        (lambda test: (test / "red").rename(test / "blue"), "it lacks red; it alone has blue; fix"),
        (lambda test: [file.unlink() for file in (test / "red").iterdir()], "red: the class folder has no images"),
    ],
)
def test_a_test_split_that_cannot_measure_is_found_out_before_the_training(image_folder, tmp_path, change, message):
    shutil.copytree(image_folder, tmp_path / "data")
    change(tmp_path / "data" / "test")
    with pytest.raises(DataError, match=message):
        run_training(CONFIG, tmp_path / "data", tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
