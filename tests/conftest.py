"""A small untrained network, its exports, and folders of generated images, made once for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import settings
from PIL import Image

from edgeresnet.cifar10 import ARCHITECTURE, CIFAR10_LABELS, CIFAR10_MEAN, CIFAR10_STD
from edgeresnet.cli import main
from edgeresnet.datasets import read_split
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import affinity_cores
from edgeresnet.providers.runtime import refuse_telemetry
from edgeresnet.spec import PRECISIONS, ImageInput, ModelSpec
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.pixels import PixelClassifier
from edgeresnet.training.weights import save_weights
from exporters.export import ExportedModel, export_models

refuse_telemetry()  # before a test loads ONNX Runtime by itself

# The same examples in every run, few of them, and none too slow on a busy machine.
settings.register_profile("suite", derandomize=True, max_examples=40, deadline=None, database=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def own_cores() -> None:
    """Where the tests run in several processes, each has cores of its own: what is timed in one is not disturbed by the others."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if 1 < count <= affinity_cores() and hasattr(os, "sched_setaffinity"):
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[number::count])
        torch.set_num_threads(affinity_cores())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CIFAR ResNet-18 whose every part matters: random scales and statistics in the norms, and every class is answered."""
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
    with torch.inference_mode():
        classifier = PixelClassifier(network, CIFAR10_MEAN, CIFAR10_STD).eval()
        usual = classifier(torch.from_numpy(synthetic_images(32, 64, seed=9))).mean(0)
    state["fc.bias"].add_(usual.max() - usual)
    spec = ModelSpec(
        labels=CIFAR10_LABELS,
        input=ImageInput.of(32),
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
def exports(weights: Path, uneven_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedModel]:
    """The exports of ``weights``, by precision, each with its accuracy on the test split of ``uneven_folder``."""
    folder = tmp_path_factory.mktemp("models")
    test = read_split(uneven_folder, "test", size=32)
    exported = export_models(weights, PRECISIONS, folder, test=test, calibration=synthetic_images(32, 64, seed=3))
    return {model.spec.precision: model for model in exported}


@pytest.fixture
def exported_before(exports: dict[str, ExportedModel], monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Spares an export of ``weights`` PyTorch's part of the work: the FP32 model is the one that ``exports`` has."""
    model = onnx.load(exports["fp32"].path)
    monkeypatch.setattr("exporters.export.export_fp32", lambda classifier, *size: model)
    return model


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
def uneven_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's classes in splits that differ in size and content: 4 training images of each, pale, and 1 to 4 test images, coloured."""
    folder = tmp_path_factory.mktemp("uneven")
    generator = np.random.default_rng(2)
    for i, label in enumerate(CIFAR10_LABELS):
        for split, count in (("train", 4), ("test", 1 + i % 4)):
            (folder / split / label).mkdir(parents=True)
            for number, pixels in enumerate(synthetic_images(32, count, seed=int(generator.integers(999)))):
                image = pixels if split == "test" else 200 + pixels // 8
                Image.fromarray(image.astype(np.uint8)).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def astray(exports: dict[str, ExportedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 file of the same weights that answers otherwise than the original on a part of the images."""
    model = onnx.load(exports["int8"].path)
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.fc.bias"]
    moved = onnx.numpy_helper.to_array(bias) - np.float32([0, 0, 0, 4, 0, 0, 0, 0, 0, 0])
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    path = tmp_path_factory.mktemp("astray") / "astray.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session", autouse=True)
def without_patience() -> Iterator[None]:
    """Figures in tests are nobody's: rounds that other work disturbed are not measured again, which doubles the time on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.latency.PATIENCE", 1)
        yield


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
