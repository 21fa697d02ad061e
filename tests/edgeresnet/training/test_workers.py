"""Two processes of torchrun's against one."""

import csv
import subprocess
import sys

import pytest
import torch

from edgeresnet.errors import DataError
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.run import run_training
from edgeresnet.training.weights import load_weights
from edgeresnet.training.workers import Workers

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# BatchNorm uses its running statistics: those of a batch would differ between a whole batch and its halves.
FROZEN_NORMS = """
import sys
from pathlib import Path
import torch
from edgeresnet.datasets import hold_out, read_split
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.loop import train
from edgeresnet.training.state import TrainingState
from edgeresnet.training.workers import join_workers

config = TrainingConfig(epochs=2, batch_size=8, lr=0.02, image_size=8, crop_padding=2, cutout=4)
training, validation = hold_out(read_split(Path(sys.argv[1]), "train", size=8), 0.2)
with join_workers(torch.device("cpu")) as (workers, device):
    state = TrainingState.new(config, training.classes, device)
    set_mode = state.network.train
    state.network.train = lambda mode=True: set_mode(False)
    train(config, state, training, validation, after_epoch=lambda record: None, workers=workers)
    if workers.is_first:
        torch.save({"weights": state.network.state_dict(), "history": [vars(record) for record in state.history]}, sys.argv[2])
    else:
        torch.save(state.network.state_dict(), sys.argv[2] + ".second")
"""


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_processes_take_the_steps_of_one(image_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FROZEN_NORMS)
    for launcher, name in (((), "one"), (TORCHRUN, "two")):
        result = run(*launcher, script, image_folder, tmp_path / name)
        assert result.returncode == 0, result.stderr
    one, two = (torch.load(tmp_path / name) for name in ("one", "two"))
    second = torch.load(tmp_path / "two.second")
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(second[name], two["weights"][name])
    for alone, together in zip(one["history"], two["history"], strict=True):
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
        assert together["train_top1"] == alone["train_top1"]
        assert together["validation_loss"] == pytest.approx(alone["validation_loss"], rel=1e-4)


def test_a_run_of_two_processes_leaves_what_a_run_of_one_leaves(image_folder, tmp_path):
    settings = ("--epochs", 2, "--batch-size", 8, "--lr", 0.02, "--image-size", 8, "--output", tmp_path / "run")
    result = run(*TORCHRUN, "-m", "edgeresnet", "train", "--data", image_folder, *settings)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("top-1 on 16 images") == 1
    assert result.stderr.count("epoch 2/2") == 1
    network = load_weights(tmp_path / "run" / "weights.safetensors")
    assert network.spec.accuracy.count == 16
    assert len(list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))) == 2
    resumed = run(*TORCHRUN, "-m", "edgeresnet", "train", "--data", image_folder, "--resume", "--output", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr


def test_a_batch_that_cannot_be_shared_is_refused(image_folder, tmp_path):
    with pytest.raises(DataError, match="a batch of 8 images cannot be shared evenly by 3 processes"):
        run_training(TrainingConfig(batch_size=8, image_size=16), image_folder, tmp_path, device=torch.device("cpu"), workers=Workers(0, 3))
    assert not list(tmp_path.iterdir())


def test_shares_make_up_the_batch():
    batch = torch.arange(12)
    shares = [Workers(rank, 3).share(batch) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert torch.equal(torch.cat(shares).sort().values, batch)
