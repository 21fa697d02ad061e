#!/usr/bin/env python3
"""Weights whose header lies about its length, its tensors or its depth."""

import json
import struct

from _attack import attack

from edgeresnet.training.weights import load_weights


def safetensors(header, data=b"", length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def files(folder):
    tensor = {"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2**41]}
    overlap = {name: {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} for name in "ab"}
    return {
        "endless.safetensors": safetensors(b"{}", length=2**63),
        "gigabyte.safetensors": safetensors(b"{}", length=2**30),
        "deep.safetensors": safetensors(b"[" * 1_000_000),
        "vast.safetensors": safetensors(json.dumps({"fc.weight": tensor}).encode()),
        "overlap.safetensors": safetensors(json.dumps(overlap).encode(), bytes(4)),
        "empty.safetensors": b"",
    }


if __name__ == "__main__":
    attack(files, load_weights)
