"""Anything a user calls an image -> uint8 pixels of the size that a model takes."""

from os import PathLike
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeresnet.decoding import MAX_PIXELS, check_size, decode
from edgeresnet.errors import ImageError
from edgeresnet.spec import CROP, STRETCH, ImageInput

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = "str | PathLike[str] | bytes | Image.Image | Pixels"

# What is taken for an image when a folder or an archive is searched; a file that is named is tried whatever it is called.
SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".mpo"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    }
)


def to_pixels(source: ImageSource, size: int | ImageInput) -> Pixels:
    """Decode one image and fit it to a model's input.

    EXIF orientation is applied, the colours are converted, and the image is fitted as the description says: pixel for pixel what the
    evaluation transforms of torchvision (Resize, CenterCrop) and of timm (``create_transform``) make of a PIL image. An image of the
    input's size that no frame enlarges keeps its exact pixels.

    Args:
        source: A path, the bytes of an encoded image, a PIL image, or a uint8 array (H, W, 3) in RGB.
        size: Description of the input; a number is short for RGB stretched to a square of that side.

    Returns:
        uint8 (height, width, channels): RGB or grey.

    Raises:
        ImageError: If the source is none of these, is broken, or has more than ``decoding.MAX_PIXELS`` pixels.
    """
    wanted = ImageInput.of(size)
    image = _from_array(source) if isinstance(source, np.ndarray) else decode(source)
    if wanted.channels == 1:
        image = image.convert("L")
    fitted = _resize(image, wanted)
    return np.asarray(_take_centre(fitted, wanted)).reshape(wanted.shape)


def _resize(image: Image.Image, wanted: ImageInput) -> Image.Image:
    """Resize to, over or into the frame."""
    width, height = image.size
    frame_height, frame_width = wanted.frame or (wanted.height, wanted.width)
    if wanted.fit == STRETCH:
        size = frame_width, frame_height
    elif wanted.fit == CROP and frame_height == frame_width:
        # As torchvision's Resize computes it: the longer side is rounded down.
        shorter = min(width, height)
        size = int(frame_width * width / shorter), int(frame_height * height / shorter)
    else:
        # As timm's ResizeKeepRatio computes it: both sides are rounded.
        ratios = height / frame_height, width / frame_width
        ratio = min(ratios) if wanted.fit == CROP else max(ratios)
        size = max(1, round(width / ratio)), max(1, round(height / ratio))
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"an image of {width} x {height} pixels becomes {size[0]} x {size[1]} here, more than the limit of {MAX_PIXELS:,}")
    return image.resize(size, Image.Resampling[wanted.filter.upper()]) if size != image.size else image


def _take_centre(image: Image.Image, wanted: ImageInput) -> Image.Image:
    """Cut out the centre, padding what is smaller; where halves are left over, as torchvision's CenterCrop does."""
    width, height = image.size
    if width < wanted.width or height < wanted.height:
        left, top = max(0, (wanted.width - width) // 2), max(0, (wanted.height - height) // 2)
        fill = wanted.fill if wanted.channels == 3 else wanted.fill[0]
        canvas = Image.new(image.mode, (max(width, wanted.width), max(height, wanted.height)), fill)
        canvas.paste(image, (left, top))
        image = canvas
        width, height = image.size
    left, top = round((width - wanted.width) / 2), round((height - wanted.height) / 2)
    box = (left, top, left + wanted.width, top + wanted.height)
    return image.crop(box) if box != (0, 0, width, height) else image


def _from_array(array: Pixels) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"an image array must be uint8 (height, width, 3) in RGB, not {array.dtype} {array.shape}")
    check_size(array.shape[1], array.shape[0], "array")
    return Image.fromarray(array)
