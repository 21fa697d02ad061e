"""What a model file says of itself: all that a program needs to use the file alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from edgeresnet.errors import ModelFormatError

# Format 2 added the input's height and width apart, its channels, how an image is fitted to it, and what the output is.
FORMAT_VERSION: Final = 2
PREFIX: Final = "edgeresnet."
# int8-stock is ONNX Runtime's own dynamic quantization, kept as the baseline that int8 is measured against.
PRECISIONS: Final = ("fp32", "fp16", "int8", "int8-static", "int8-stock")
DEFAULT_PRECISIONS: Final = ("fp32", "int8")
# Activations get their scale as the model runs, one for all images of a call.
DYNAMIC_PRECISIONS: Final = ("int8", "int8-stock")
# Quantized networks reach 30 to 50 dB; at 20 dB the noise has a tenth of the signal's amplitude.
ACCEPTABLE_SQNR_DB: Final = 20.0

INPUT_NAME: Final = "images"
LOGITS: Final = "logits"
PROBABILITIES: Final = "probabilities"
OUTPUTS: Final = (LOGITS, PROBABILITIES)

STRETCH, CROP, LETTERBOX = FITS = ("stretch", "crop", "letterbox")
# Pillow's, under the names that it and timm have for them.
FILTERS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
# Layout of the input by its number of channels, as the metadata spells it.
LAYOUTS: Final = {3: "uint8 NHWC RGB", 1: "uint8 NHWC grey"}


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image becomes a model's input, which is uint8 (height, width, channels).

    Attributes:
        height: Of the input, in pixels.
        width: Likewise.
        channels: 3 for RGB, 1 for grey.
        fit: How an image of another size is fitted: ``stretch`` to the frame whatever its proportions; ``crop``: resized, with its
            proportions kept, until it just covers the frame; ``letterbox``: until it just lies within. What the input then shows is
            the centre.
        frame: Height and width of the frame; None is the input itself. ImageNet's "224 of 256" is a crop with a frame of 256 x 256.
        filter: One of ``FILTERS``, with antialiasing.
        fill: Grey level or RGB of what the image does not cover, 0 to 255.

    Raises:
        ValueError: If a value makes no sense.
    """

    height: int
    width: int
    channels: int = 3
    fit: str = STRETCH
    frame: tuple[int, int] | None = None
    filter: str = "bilinear"
    fill: tuple[int, ...] = (0, 0, 0)

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width), *(("frame", side) for side in self.frame or ())):
            if value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, not {value}")
        if self.channels not in LAYOUTS:
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), not {self.channels}")
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if self.filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(FILTERS)}, not {self.filter!r}")
        if self.frame is not None and len(self.frame) != 2:
            raise ValueError(f"frame must be height and width, not {self.frame}")
        if len(self.fill) != 3 or not all(0 <= level <= 255 for level in self.fill):
            raise ValueError(f"fill must be three levels of 0 to 255, not {self.fill}")

    @classmethod
    def of(cls, size: "int | ImageInput") -> "ImageInput":
        """A whole description as it is; a number is short for RGB images stretched to a square of that side."""
        return size if isinstance(size, ImageInput) else cls(height=size, width=size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image's pixels: (height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def layout(self) -> str:
        """Element type, order of dimensions and colours, as the metadata spells them."""
        return LAYOUTS[self.channels]

    def __str__(self) -> str:
        colours = "RGB" if self.channels == 3 else "grey"
        frame = f" of {self.frame[0]} x {self.frame[1]}" if self.frame is not None else ""
        return f"{self.height} x {self.width}{frame} {colours}, {self.fit}, {self.filter}"


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy that was measured on a named set of images.

    Attributes:
        top1: Fraction of images whose highest logit is the true class, 0 to 1.
        count: Number of images.
        data: Name of the data set and split.
        top5: Fraction whose true class is among the five highest logits; None where there are no more than five classes, or nobody
            measured it.
    """

    top1: float
    count: int
    data: str
    top5: float | None = None

    def __str__(self) -> str:
        top5 = f", {self.top5:.2%} top-5" if self.top5 is not None else ""
        return f"{self.top1:.2%} top-1{top5} on {self.count:,} images ({self.data})"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Description of a classifier, carried in the file's own metadata under keys that begin with ``edgeresnet.``.

    Attributes:
        labels: Class names in the order of the output.
        input: How an image becomes the model's input.
        mean: Mean of each channel of pixels scaled to [0, 1]; already applied inside the graph.
        std: Standard deviation of each channel, likewise.
        output: ``logits``, or ``probabilities`` where the graph ends in a softmax; also the name of the graph's output.
        architecture: Name of the network, such as ``resnet18-cifar`` or ``torchvision:mobilenet_v2``.
        precision: One of ``PRECISIONS``.
        checkpoint_sha256: Hex SHA-256 of the file that the model was made from: weights, or a foreign ONNX file.
        accuracy: Measured accuracy of this very file, or None where nobody measured it.
        versions: Versions of the tools that made the file.
    """

    labels: tuple[str, ...]
    input: ImageInput
    mean: tuple[float, ...]
    std: tuple[float, ...]
    output: str = LOGITS
    architecture: str
    precision: str
    checkpoint_sha256: str
    accuracy: Accuracy | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {self.output!r}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.input.channels:
                raise ValueError(f"{name} must have a value for each of the {self.input.channels} channel(s), not {getattr(self, name)}")

    @property
    def image_size(self) -> int:
        """Side of a square input, in pixels.

        Raises:
            ValueError: If height and width differ.
        """
        if self.input.height != self.input.width:
            raise ValueError(f"the input is {self.input.height} x {self.input.width}, not a square")
        return self.input.height

    def to_metadata(self) -> dict[str, str]:
        """Return the ONNX ``metadata_props`` entries of this description; composite values are JSON."""
        entries: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "labels": self.labels,
            "image_size": [self.input.height, self.input.width],
            "layout": self.input.layout,
            "fit": self.input.fit,
            "frame": self.input.frame,
            "filter": self.input.filter,
            "fill": self.input.fill,
            "mean": self.mean,
            "std": self.std,
            "output": self.output,
            "architecture": self.architecture,
            "precision": self.precision,
            "checkpoint_sha256": self.checkpoint_sha256,
            "versions": dict(self.versions),
        }
        if self.accuracy is not None:
            entries["accuracy"] = {name: value for name, value in vars(self.accuracy).items() if value is not None}
        return {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ModelSpec":
        """Read a description back from a model's metadata, of this format or an earlier one.

        Raises:
            ModelFormatError: If the entries are missing, of a newer format or broken.
        """
        if PREFIX + "format_version" not in metadata:
            raise ModelFormatError(
                "the file has no edgeresnet metadata, so its labels and input are unknown; fix: `edgeresnet adopt` takes in any ONNX "
                "classifier, `edgeresnet export` makes one from PyTorch"
            )
        try:
            version = int(metadata[PREFIX + "format_version"])
            if version > FORMAT_VERSION:
                raise ModelFormatError(
                    f"the file has metadata format {version}, this release reads up to {FORMAT_VERSION}; fix: upgrade edgeresnet"
                )
            accuracy = metadata.get(PREFIX + "accuracy")
            return cls(
                labels=tuple(map(str, json.loads(metadata[PREFIX + "labels"]))),
                input=_read_input(metadata),
                mean=_numbers(metadata[PREFIX + "mean"]),
                std=_numbers(metadata[PREFIX + "std"]),
                output=metadata.get(PREFIX + "output", LOGITS),
                architecture=metadata[PREFIX + "architecture"],
                precision=metadata[PREFIX + "precision"],
                checkpoint_sha256=metadata[PREFIX + "checkpoint_sha256"],
                accuracy=Accuracy(**json.loads(accuracy)) if accuracy is not None else None,
                versions=json.loads(metadata[PREFIX + "versions"]),
            )
        except ModelFormatError:
            raise
        # Nested too deeply is a RecursionError.
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelFormatError(f"the file's edgeresnet metadata is broken ({error!r}); fix: export the model again") from error


def _read_input(metadata: Mapping[str, str]) -> ImageInput:
    """Format 1 knew square RGB images alone, stretched by the bilinear filter: what the defaults are."""
    height, width = _whole_numbers(metadata[PREFIX + "image_size"])
    layout = metadata[PREFIX + "layout"]
    channels = next((count for count, name in LAYOUTS.items() if name == layout), None)
    if channels is None:
        raise ValueError(f"unknown layout {layout!r}")
    described: dict[str, Any] = {key: metadata[PREFIX + key] for key in ("fit", "filter") if PREFIX + key in metadata}
    described |= {key: _whole_numbers(metadata[PREFIX + key]) for key in ("frame", "fill") if PREFIX + key in metadata}
    return ImageInput(height=height, width=width, channels=channels, **described)


def _whole_numbers(text: str) -> tuple[int, ...]:
    values = tuple(json.loads(text))
    if not all(type(value) is int for value in values):
        raise TypeError(f"{text} are not whole numbers")
    return values


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(value) for value in json.loads(text))
