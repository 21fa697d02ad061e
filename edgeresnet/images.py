"""Anything a user calls an image -> uint8 pixels of the size that a model takes."""

from os import PathLike
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeresnet.decoding import check_size, decode
from edgeresnet.errors import ImageError

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = "str | PathLike[str] | bytes | Image.Image | Pixels"

# What is taken for an image when a folder or an archive is searched; a file that is named is tried whatever it is called.
SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".mpo"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    }
)


def to_pixels(source: ImageSource, size: int) -> Pixels:
    """Decode one image and fit it to a square model input.

    EXIF orientation is applied, the colours are converted to RGB, and the image is resized to ``size`` x ``size`` with
    antialiasing (Pillow's bilinear filter); an image of that size already keeps its exact pixels.

    Args:
        source: A path, the bytes of an encoded image, a PIL image, or a uint8 array (H, W, 3) in RGB.
        size: Height and width of the result.

    Returns:
        uint8 (size, size, 3) RGB.

    Raises:
        ImageError: If the source is none of these, is broken, or has more than ``decoding.MAX_PIXELS`` pixels.
    """
    image = _from_array(source) if isinstance(source, np.ndarray) else decode(source)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _from_array(array: Pixels) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"an image array must be uint8 (height, width, 3) in RGB, not {array.dtype} {array.shape}")
    check_size(array.shape[1], array.shape[0], "array")
    return Image.fromarray(array)
