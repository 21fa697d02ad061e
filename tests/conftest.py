"""A small untrained network, its exports, and folders of generated images, made once for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeresnet.cli import main
from edgeresnet.evaluation import synthetic_images
from edgeresnet.providers.runtime import refuse_telemetry
from edgeresnet.spec import CIFAR10_LABELS, CIFAR10_MEAN, CIFAR10_STD, PRECISIONS, ModelSpec
from edgeresnet.training.model import ARCHITECTURE, build_resnet18
from edgeresnet.training.weights import save_weights
from exporters.export import ExportedModel, export_models

refuse_telemetry()  # before a test loads ONNX Runtime by itself


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CIFAR ResNet-18 whose every part matters: random scales and statistics in the norms."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_resnet18(len(CIFAR10_LABELS))
    state = network.state_dict()
    for name, value in state.items():
        if "running_mean" in name or (("bn" in name or "downsample.1" in name) and name.endswith("bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif value.ndim == 1 and name.endswith(("weight", "running_var")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    state["fc.weight"].mul_(10)
    spec = ModelSpec(
        labels=CIFAR10_LABELS,
        image_size=32,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        architecture=ARCHITECTURE,
        precision="fp32",
        checkpoint_sha256="",
    )
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, state, spec)
    return path


@pytest.fixture(scope="session")
def exports(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedModel]:
    """The exports of ``weights``, by precision."""
    folder = tmp_path_factory.mktemp("models")
    exported = export_models(weights, PRECISIONS, folder, calibration=synthetic_images(32, 64, seed=3))
    return {model.spec.precision: model for model in exported}


def make_image(generator: np.random.Generator, colour: int, size: int) -> Image.Image:
    """Noise with one dominant colour channel: easy to tell apart, different in every image."""
    pixels = generator.integers(0, 120, (size, size, 3), dtype=np.uint8)
    pixels[..., colour] += 120
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes, 24 training and 8 test images each, 16x16."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for colour, label in enumerate(("red", "green")):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                make_image(generator, colour, 16).save(folder / split / label / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test split with CIFAR-10's classes, three generated 32x32 images each."""
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(1)
    for i, label in enumerate(CIFAR10_LABELS):
        (folder / "test" / label).mkdir(parents=True)
        for number in range(3):
            make_image(generator, i % 3, 32).save(folder / "test" / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real CIFAR-10, where it is at hand."""
    path = os.environ.get("EDGERESNET_DATA")
    if not path:
        pytest.skip("EDGERESNET_DATA does not name a copy of CIFAR-10")
    return Path(path)


@pytest.fixture(scope="session")
def wheel_folder() -> Callable[[str], Path]:
    """Gives a folder with one wheel and nothing that it needs, kept between runs since they are large."""

    def install(wheel: str) -> Path:
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeresnet-tests" / wheel
        if not (folder / "complete").exists():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), wheel]
            installed = subprocess.run(command, capture_output=True, text=True, check=False)
            if installed.returncode:
                pytest.skip(f"pip cannot install {wheel}: {installed.stderr.strip().splitlines()[-1]}")
            (folder / "complete").touch()
        return folder

    return install


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Runs a command line in this process, without the environment's default for --data."""
    monkeypatch.delenv("EDGERESNET_DATA", raising=False)

    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(int(ended.value.code or 0), captured.out, captured.err)

    return run
