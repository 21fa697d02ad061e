#!/usr/bin/env python3
"""Profiles that are deep, want a million threads, or name a device file, a secret or another file as their model."""

import json

from _attack import attack

from edgeresnet import Classifier
from edgeresnet.profile import SCHEMA


def profile(model="model.onnx", **target):
    entries = {"model": model, "model_sha256": "0" * 64, "target": target, "cpu": "", "images_per_call": 1, "p50_ms": 1.0}
    return json.dumps({"schema": SCHEMA, **entries}).encode()


def files(folder):
    return {
        "deep.json": b"[" * 1_000_000,
        "binary.json": bytes(range(256)) * 100,
        "threads.json": profile(threads=1_000_000),
        "negative.json": profile(threads=-1),
        "types.json": profile(threads="many"),
        "endless.json": profile("/dev/zero"),
        "secret.json": profile("/etc/passwd"),
        "folder.json": profile("."),
        "null.json": profile("a\0b"),
    }


if __name__ == "__main__":
    attack(files, Classifier.from_profile)
