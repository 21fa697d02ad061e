"""What a model file says of itself: all that a program needs to use the file alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgeresnet.errors import ModelFormatError

FORMAT_VERSION: Final = 1
PREFIX: Final = "edgeresnet."
# int8-stock is ONNX Runtime's own dynamic quantization, kept as the baseline that int8 is measured against.
PRECISIONS: Final = ("fp32", "fp16", "int8", "int8-static", "int8-stock")
DEFAULT_PRECISIONS: Final = ("fp32", "int8")
# Activations get their scale as the model runs, one for all images of a call.
DYNAMIC_PRECISIONS: Final = ("int8", "int8-stock")
# Quantized networks reach 30 to 50 dB; at 20 dB the noise has a tenth of the signal's amplitude.
ACCEPTABLE_SQNR_DB: Final = 20.0

INPUT_NAME: Final = "images"
OUTPUT_NAME: Final = "logits"

# CIFAR-10, in the order of its label files, which is also alphabetical (Krizhevsky, 2009).
CIFAR10_LABELS: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIZE: Final = 32
# Mean and standard deviation of the training pixels scaled to [0, 1], as the CIFAR literature rounds them.
CIFAR10_MEAN: Final = (0.4914, 0.4822, 0.4465)
CIFAR10_STD: Final = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy that was measured on a named set of images.

    Attributes:
        top1: Fraction of images whose highest logit is the true class, 0 to 1.
        count: Number of images.
        data: Name of the data set and split.
    """

    top1: float
    count: int
    data: str

    def __str__(self) -> str:
        return f"{self.top1:.2%} top-1 on {self.count:,} images ({self.data})"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Description of a classifier, carried in the file's own metadata under keys that begin with ``edgeresnet.``.

    Attributes:
        labels: Class names in the order of the logits.
        image_size: Height and width in pixels of the square input.
        mean: Per-channel RGB mean of pixels scaled to [0, 1]; already applied inside the graph.
        std: Per-channel RGB standard deviation, likewise.
        architecture: Name of the network, such as ``resnet18-cifar``.
        precision: One of ``PRECISIONS``.
        checkpoint_sha256: Hex SHA-256 of the weights file that the model was made from.
        accuracy: Measured accuracy of this very file, or None where nobody measured it.
        versions: Versions of the tools that made the file.
    """

    labels: tuple[str, ...]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    architecture: str
    precision: str
    checkpoint_sha256: str
    accuracy: Accuracy | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return the ONNX ``metadata_props`` entries of this description; composite values are JSON."""
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "labels": self.labels,
            "image_size": [self.image_size, self.image_size],
            "layout": "uint8 NHWC RGB",
            "mean": self.mean,
            "std": self.std,
            "architecture": self.architecture,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "versions": dict(self.versions),
        }
        if self.accuracy is not None:
            values["accuracy"] = vars(self.accuracy)
        return {PREFIX + key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ModelSpec":
        """Read a description back from a model's metadata.

        Raises:
            ModelFormatError: If the entries are missing, of a newer format or broken.
        """
        if PREFIX + "format_version" not in metadata:
            raise ModelFormatError(
                "the file has no edgeresnet metadata, so its labels and input are unknown; fix: make it with `edgeresnet export`"
            )
        try:
            version = int(metadata[PREFIX + "format_version"])
            if version > FORMAT_VERSION:
                raise ModelFormatError(
                    f"the file has metadata format {version}, this release reads up to {FORMAT_VERSION}; fix: upgrade edgeresnet"
                )
            height, width = json.loads(metadata[PREFIX + "image_size"])
            if height != width or not isinstance(height, int) or height < 1:
                raise ValueError(f"image_size is {height} x {width}, not a square of whole pixels")
            labels = tuple(map(str, json.loads(metadata[PREFIX + "labels"])))
            accuracy = metadata.get(PREFIX + "accuracy")
            return cls(
                labels=labels,
                image_size=height,
                mean=_triple(metadata[PREFIX + "mean"]),
                std=_triple(metadata[PREFIX + "std"]),
                architecture=metadata[PREFIX + "architecture"],
                precision=metadata[PREFIX + "precision"],
                checkpoint_sha256=metadata[PREFIX + "checkpoint_sha256"],
                accuracy=Accuracy(**json.loads(accuracy)) if accuracy is not None else None,
                versions=json.loads(metadata[PREFIX + "versions"]),
            )
        except ModelFormatError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"the file's edgeresnet metadata is broken ({error!r}); fix: export the model again") from error


def _triple(text: str) -> tuple[float, float, float]:
    red, green, blue = json.loads(text)
    return float(red), float(green), float(blue)
