"""Anything a user calls an image -> uint8 pixels. The only place where images are decoded."""

import io
import warnings
from os import PathLike
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeresnet.errors import ImageError
from edgeresnet.spec import CROP, STRETCH, ImageInput

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = "str | PathLike[str] | bytes | Image.Image | Pixels"

# A photograph of a 50-megapixel camera fits; decompression bombs, which Pillow only warns of at 89 megapixels, do not.
MAX_PIXELS: Final = 50_000_000

SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


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
        ImageError: If the source is none of these, is broken, or has more than ``MAX_PIXELS`` pixels.
    """
    wanted = ImageInput.of(size)
    image = _from_array(source) if isinstance(source, np.ndarray) else _decode(source)
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
    _check_pixel_count(array.shape[1], array.shape[0], "array")
    return Image.fromarray(array)


def _decode(source: object) -> Image.Image:
    """Return an upright RGB image from a path, bytes or a PIL image."""
    if isinstance(source, Image.Image):
        name = "PIL image"
        opened = source
    elif isinstance(source, bytes):
        name = f"image data of {len(source):,} bytes"
        opened = _open(io.BytesIO(source), name)
    elif isinstance(source, str | PathLike):
        path = Path(source)
        name = str(path)
        opened = _open(path, name)
    else:
        raise ImageError(
            f"cannot read an image from {type(source).__name__}; pass a path, bytes, a PIL image or a uint8 array (height, width, 3)"
        )
    _check_pixel_count(*opened.size, name)
    try:
        upright = ImageOps.exif_transpose(opened)
        return _flatten(upright)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: the image is broken or truncated ({error})") from error
    finally:
        if opened is not source:
            opened.close()


def _open(stream: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Our own limit is lower than the one at which Pillow warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(stream)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in a format that Pillow reads") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read as an image ({reason})") from error


def _check_pixel_count(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to RGB; what is transparent becomes white, since the colour stored under it is arbitrary."""
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    elif image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey to 255 on conversion; scale it to 8 bits instead.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
