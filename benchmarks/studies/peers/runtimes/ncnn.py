"""ncnn, by pnnx."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    import torch

    from edgeresnet.training.weights import load_weights

    trained = load_weights(materials.weights)
    height, width, channels = trained.spec.input.shape
    traced = materials.folder / "resnet18.pt"
    trace: Any = torch.jit.trace  # it has no types
    trace(trained.model.network.eval(), torch.zeros(1, channels, height, width)).save(traced)
    command = [str(Path(sys.executable).with_name("pnnx")), str(traced), f"inputshape=[1,{channels},{height},{width}]", "fp16=0"]
    subprocess.run(command, cwd=materials.folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # a tool of this environment
    files = [materials.folder / f"resnet18.ncnn.{kind}" for kind in ("param", "bin")]
    normalization = {"mean": [255 * value for value in trained.spec.mean], "norm": [1 / (255 * value) for value in trained.spec.std]}
    files[0].with_suffix(".json").write_text(json.dumps(normalization))
    return files


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    import ncnn

    normalization = json.loads(path.with_suffix(".json").read_text())
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))

    def run(image: Pixels) -> Logits:
        _, height, width, _ = image.shape
        pixels = ncnn.Mat.from_pixels(image[0], ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        pixels.substract_mean_normalize(normalization["mean"], normalization["norm"])
        extractor = net.create_extractor()
        extractor.input("in0", pixels)
        _, answer = extractor.extract("out0")
        return np.array(answer, np.float32)

    return run
