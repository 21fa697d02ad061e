"""How a classifier does on images, and how two of them compare: plain arithmetic on logits."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import DataError
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.spec import Accuracy, ImageInput

Logits = NDArray[np.float32]

BATCH: Final = 128
# Activations of 128 images take 0.4 GB a layer in a ResNet-50 at 224 x 224, 30 MB at 64 x 64.
USUAL_VALUES: Final = 64 * 64 * 3
TOP: Final = 5
SYNTHETIC_NAME: Final = "synthetic images"


class Network(Protocol):
    """Anything that turns pixels into logits: an ONNX session or the PyTorch original."""

    def logits(self, pixels: Pixels) -> Logits: ...


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How close a network's logits are to the original's.

    Attributes:
        count: Number of images compared.
        largest_difference: Largest absolute difference of any logit.
        sqnr_db: Signal-to-quantization-noise ratio in dB: power of the original's logits over that of the difference; NaN where a logit
            is not a number.
        agreement: Fraction of images with the same top-1 class.
    """

    count: int
    largest_difference: float
    sqnr_db: float
    agreement: float


def collect_logits(network: Network, images: Pixels, description: str, track: Track = silent, *, batch_size: int | None = None) -> Logits:
    """Run a network over many images.

    Args:
        network: What to run.
        images: uint8 (N, height, width, channels), N at least 1.
        description: What the progress bar says.
        track: Progress reporter.
        batch_size: Images per call; None for as many as memory has room for.

    Returns:
        float32 (N, classes).
    """
    batch_size = batch_size or images_at_once(BATCH, images)
    starts = range(0, len(images), batch_size)
    return np.concatenate([network.logits(images[start : start + batch_size]) for start in track(starts, description)])


def images_at_once(count: int, images: NDArray[Any]) -> int:
    """How many of these images have the values of ``count`` images of 64 x 64 in RGB; no more than ``count``, and at least one."""
    return max(1, min(count, count * USUAL_VALUES // math.prod(images.shape[1:])))


def compare_logits(original: Logits, logits: Logits) -> Parity:
    """Compare the logits of the same images, both float32 (N, classes)."""
    difference = logits.astype(np.float64) - original
    noise = float(np.square(difference).mean())
    signal = float(np.square(original.astype(np.float64)).mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr_db = 10 * float(np.log10(np.float64(signal) / noise)) if noise != 0 else float("inf")
    return Parity(
        count=len(original),
        largest_difference=float(np.abs(difference).max()),
        sqnr_db=sqnr_db,
        agreement=float((original.argmax(1) == logits.argmax(1)).mean()),
    )


def top1(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Fraction of images whose highest logit is the true class."""
    return float((logits.argmax(1) == labels).mean())


def top5(logits: Logits, labels: NDArray[np.int64]) -> float | None:
    """Fraction of images whose true class is among the five highest logits; None where there are no more than five classes."""
    if logits.shape[1] <= TOP:
        return None
    best = np.argpartition(-logits, TOP - 1, axis=1)[:, :TOP]
    return float((best == labels[:, None]).any(1).mean())


def measure(logits: Logits, data: LabelledImages) -> Accuracy:
    """Accuracy of the answers to a labelled set of images."""
    return Accuracy(top1=top1(logits, data.labels), top5=top5(logits, data.labels), count=len(data), data=data.name)


def match_classes(data: LabelledImages, labels: tuple[str, ...]) -> LabelledImages:
    """A data set with its classes in the order of a model's: class folders are sorted by name, a model's outputs need not be.

    Raises:
        DataError: If they are not the same classes.
    """
    if data.classes == labels:
        return data
    if sorted(data.classes) != sorted(labels):
        raise DataError(
            f"the data's {len(data.classes)} classes ({_some(data.classes)}) are not the model's {len(labels)} ({_some(labels)})"
        )
    numbers = np.array([labels.index(name) for name in data.classes], np.int64)
    return replace(data, labels=numbers[data.labels], classes=labels)


def synthetic_images(size: int | ImageInput, count: int = 64, seed: int = 0) -> Pixels:
    """Images for comparing networks where no data is at hand: coloured shapes and gradients at several scales, fixed by ``seed``.

    Plain noise would not do: a trained network puts all of it in one class.

    Args:
        size: The model's input; a number is short for square RGB images of that side.
        count: Number of images.
        seed: Decides them.

    Returns:
        uint8 (count, height, width, channels).
    """
    height, width, channels = ImageInput.of(size).shape
    generator = np.random.default_rng(seed)
    images = np.zeros((count, height, width, 3))
    for cells in (2, 3, 5, 9):
        grid = generator.normal(size=(count, cells, cells, 3))
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        images += grid[:, rows[:, None], columns] / cells**0.5
    spread = generator.uniform(20, 90, (count, 1, 1, 1))
    pixels = np.clip(generator.uniform(70, 180, (count, 1, 1, 3)) + spread * images, 0, 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., :channels]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
