#!/usr/bin/env python3
"""Models that are empty, cut off, of another kind, or have bits turned in their structure."""

import random

import numpy as np
from _attack import attack

from edgeresnet import Classifier
from edgeresnet.classifier import bundled_model
from edgeresnet.modelfile import parse_model

# Weights are no structure: a bit there is a wrong number and nothing else.
STRUCTURE = 40_000


def files(folder):
    content, chance = bundled_model().read_bytes(), random.Random(0)
    made = {"empty.onnx": b"", "text.onnx": b"hello world" * 100, "zip.onnx": b"PK\3\4" + bytes(1000), "varint.onnx": b"\xff" * 1000}
    made |= {f"cut{i}.onnx": content[: chance.randrange(len(content))] for i in range(10)}
    for i in range(40):
        data = bytearray(content)
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(STRUCTURE)
            data[place if i % 2 else -1 - place] ^= 1 << chance.randrange(8)
        made[f"flipped{i}.onnx"] = bytes(data)
    return made


def victim(path):
    parse_model(path.read_bytes())
    with Classifier(path, threads=1) as classifier:
        classifier.logits(np.zeros((1, 32, 32, 3), np.uint8))


if __name__ == "__main__":
    attack(files, victim)
