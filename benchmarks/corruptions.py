"""Images as bad cameras, light and storage leave them: kinds of corruption in the manner of CIFAR-10-C (Hendrycks and Dietterich, 2019).

That set is made from the original files; these functions make the same kinds from any images, in three strengths.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edgeresnet.images import Pixels

STRENGTHS: Final = (1, 2, 3)
# Standard deviation of the noise in units of the pixel range; radius of the blur in pixels; added brightness and kept contrast as
# fractions; JPEG quality; side of the picture in pixels, of 32, before it is enlarged again.
_NOISE: Final = (0.04, 0.07, 0.10)
_BLUR: Final = (0.5, 0.8, 1.1)
_BRIGHTNESS: Final = (0.1, 0.2, 0.3)
_CONTRAST: Final = (0.6, 0.4, 0.25)
_QUALITY: Final = (60, 30, 15)
_SIDE: Final = (0.75, 0.5, 0.375)


def add_noise(images: Pixels, strength: int) -> Pixels:
    """Gaussian noise, the same for the same images."""
    noise = np.random.default_rng(strength).normal(0, 255 * _NOISE[strength - 1], images.shape)
    return _to_pixels(images + noise)


def blur(images: Pixels, strength: int) -> Pixels:
    """Gaussian blur."""
    return _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(_BLUR[strength - 1])))


def brighten(images: Pixels, strength: int) -> Pixels:
    """Overexposure: what becomes brighter than white is lost."""
    return _to_pixels(images + 255 * _BRIGHTNESS[strength - 1])


def flatten_contrast(images: Pixels, strength: int) -> Pixels:
    """Fog: all pixels closer to the image's mean."""
    mean = images.mean((1, 2, 3), keepdims=True)
    return _to_pixels(mean + _CONTRAST[strength - 1] * (images - mean))


def compress(images: Pixels, strength: int) -> Pixels:
    """JPEG compression."""

    def encode(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=_QUALITY[strength - 1])
        return Image.open(file)

    return _each(images, encode)


def pixelate(images: Pixels, strength: int) -> Pixels:
    """Too few pixels, enlarged."""

    def shrink(image: Image.Image) -> Image.Image:
        side = round(_SIDE[strength - 1] * image.width)
        return image.resize((side, side), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)

    return _each(images, shrink)


CORRUPTIONS: Final[Mapping[str, Callable[[Pixels, int], Pixels]]] = {
    "noise": add_noise,
    "blur": blur,
    "brightness": brighten,
    "contrast": flatten_contrast,
    "jpeg": compress,
    "pixelate": pixelate,
}


def _each(images: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _to_pixels(values: NDArray[np.floating[Any]]) -> Pixels:
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels
