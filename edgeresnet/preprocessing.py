"""What happens to an image before a network sees it, and what a user may want changed of that."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from edgeresnet.errors import PreprocessingError
from edgeresnet.spec import CROP, LETTERBOX, ImageInput

# Of ImageNet's training images, RGB, as everybody rounds them; and the part of the shorter side that its evaluation shows: 224 of 256.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
IMAGENET_SHARE: Final = 0.875
IMAGENET: Final = "imagenet"
PRESETS: Final = (IMAGENET,)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to what a network computes on.

    Attributes:
        input: How an image becomes pixels of the input's size.
        mean: Of each channel of pixels scaled to [0, 1]; subtracted from them.
        std: Of each channel, likewise; they are divided by it.

    Raises:
        ValueError: If a value makes no sense.
    """

    input: ImageInput
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.input.channels or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be a number for each of the {self.input.channels} channel(s), not {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above zero, not {self.std}")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a user says of the preprocessing; None leaves it as it is known or usual.

    Attributes:
        preset: ``imagenet`` for ImageNet's mean and deviation and its crop by the bilinear filter; the other values win over it.
        size: Height and width of the input.
        mean: Of the channels; one number is for all of them.
        std: Likewise.
        fit: One of ``spec.FITS``.
        resize: Length of the sides, for a crop of the shorter one, before the centre is cut out.
        filter: One of ``spec.FILTERS``.
    """

    preset: str | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: str | None = None
    resize: int | None = None
    filter: str | None = None

    @property
    def normalizes(self) -> bool:
        """Whether mean and standard deviation are both said."""
        return self.preset is not None or (self.mean is not None and self.std is not None)

    def apply(self, known: Preprocessing) -> Preprocessing:
        """The preprocessing with the changes.

        Raises:
            PreprocessingError: If they make no sense, by themselves or together.
        """
        try:
            return self._apply(known)
        except ValueError as error:
            raise PreprocessingError(str(error)) from error

    def _apply(self, known: Preprocessing) -> Preprocessing:
        if self.preset not in (None, *PRESETS):
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        preset: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "fit": CROP, "filter": "bilinear"} if self.preset else {}
        given = preset | {name: value for name, value in vars(self).items() if value is not None and name != "preset"}
        fitted = _fit(known.input, given)
        channels = known.input.channels
        mean, std = (_for_channels(given[name], channels) if name in given else getattr(known, name) for name in ("mean", "std"))
        return Preprocessing(input=fitted, mean=mean, std=std)


def _fit(known: ImageInput, given: dict[str, Any]) -> ImageInput:
    height, width = given.get("size", (known.height, known.width))
    fit = given.get("fit", known.fit)
    if "resize" in given:
        if fit == LETTERBOX:
            raise ValueError("resize is the size before the centre is cut out, and a letterbox shows the whole image")
        if given["resize"] < min(height, width):
            raise ValueError(f"resize must be at least the input's shorter side, {min(height, width)}, not {given['resize']}")
        frame: tuple[int, int] | None = (given["resize"], given["resize"])
    elif "fit" in given:
        frame = frame_of(height, width, IMAGENET_SHARE) if fit == CROP else None
    elif known.frame is not None:
        frame = known.frame[0] * height // known.height, known.frame[1] * width // known.width
    else:
        frame = None
    return replace(known, height=height, width=width, fit=fit, frame=frame, filter=given.get("filter", known.filter))


def frame_of(height: int, width: int, share: float) -> tuple[int, int] | None:
    """The frame of which an input shows a share of each side, rounded down as timm rounds it; None where that is the input itself."""
    frame = math.floor(height / share), math.floor(width / share)
    return frame if frame != (height, width) else None


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One value for each channel; several that are equal, or one, are good for any number of channels."""
    return values[:1] * channels if len(set(values)) == 1 else values
