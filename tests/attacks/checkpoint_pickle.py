#!/usr/bin/env python3
"""Pickles that run code when they are loaded, as training states, weights and CIFAR-10 batches."""

import io
import pickle
import zipfile

import torch
from _attack import attack

from edgeresnet.datasets import read_split
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights


class Touch:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def files(folder):
    evil = pickle.dumps({"format": Touch(folder / "owned")})
    saved = io.BytesIO()
    torch.save({"format": Touch(folder / "owned")}, saved)
    patched = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved.getvalue())) as source, zipfile.ZipFile(patched, "w") as target:
        for member in source.namelist():
            target.writestr(member, evil if member.endswith("data.pkl") else source.read(member))
    return {
        "plain.pt": evil,
        "saved.pt": saved.getvalue(),
        "patched.pt": patched.getvalue(),
        "weights.safetensors": evil,
        "test_batch": evil,
    }


def victim(path):
    if path.suffix == ".pt":
        TrainingState.load(path, torch.device("cpu"))
    elif path.suffix == ".safetensors":
        load_weights(path)
    else:
        batches = path.parent / "cifar-10-batches-py"
        batches.mkdir()
        path.rename(batches / path.name)
        read_split(path.parent, "test")


if __name__ == "__main__":
    attack(files, victim)
