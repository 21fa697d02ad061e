"""Encoded images of any format, depth and state of repair -> upright 8-bit RGB. Nobody checked the files that arrive here."""

import io
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, TiffImagePlugin, UnidentifiedImageError

from edgeresnet.errors import ImageError

# A photograph of a 50-megapixel camera fits; decompression bombs, which Pillow only warns of at 89 megapixels, do not.
MAX_PIXELS: Final = 50_000_000
# Pillow's resampling takes 16 bytes of coefficients for every pixel of a side: 800 MB for a line of 50 million.
MAX_SIDE: Final = 1_000_000
# Pillow hands PostScript to Ghostscript: a program inside a file must not run because somebody called it an image.
PROGRAMS: Final = ("EPS",)

# What stat.filemode calls them.
_NO_FILES: Final = {"d": "a folder", "p": "a pipe", "s": "a socket", "c": "a device", "b": "a device"}

_ORIENTATION: Final = 0x0112
# EXIF 2.32, tag Orientation: how to turn what is stored.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of TIFF 6.0: bits of a sample, how its values map to brightness, and whether they have a sign.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


def decode(source: object) -> Image.Image:
    """Return an upright RGB image from a path, the bytes of an encoded image or a PIL image.

    What lies behind transparent pixels becomes white, since the colour stored under them is arbitrary. Of an animation the first
    frame is taken. Grey of any depth keeps its brightness: white is the largest value of the stored depth; 1 for floats; for
    32-bit numbers, which seldom use their range, the largest value of the least of 8, 16 and 32 bits that holds them all.

    Raises:
        ImageError: If it is none of these, broken, a program (PostScript), larger than ``MAX_PIXELS`` or has no brightness
            (negative or infinite values).
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "PIL image")
    stream: Path | io.BytesIO
    if isinstance(source, bytes):
        name, stream = f"image data of {len(source):,} bytes", io.BytesIO(source)
    elif isinstance(source, str | PathLike):
        name = os.fsdecode(source)
        stream = Path(name)
    else:
        raise ImageError(
            f"cannot read an image from {type(source).__name__}; pass a path, bytes, a PIL image or a uint8 array (height, width, 3)"
        )
    with _open(stream, name) as opened:
        return _upright_rgb(opened, name)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse what would take too much memory.

    Raises:
        ImageError: If there are more than ``MAX_PIXELS`` pixels, or more than ``MAX_SIDE`` in a line.
    """
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels, but a side may have {MAX_SIDE:,} at most")


def _open(stream: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        if isinstance(stream, Path):
            kind = stat.filemode(stream.stat().st_mode)[0]
            if kind in _NO_FILES:
                # A pipe that nobody writes to would be waited for until the end of days.
                raise ImageError(f"{name}: cannot be read as an image (it is {_NO_FILES[kind]})")
        opened = Image.open(stream)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: more than the limit of {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in a format that Pillow reads") from error
    except Exception as error:  # forty decoders, each of which raises whatever it stumbles over
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)})") from error
    if opened.format in PROGRAMS:
        opened.close()
        raise ImageError(f"{name}: is PostScript, which would have to be run; fix: convert it to an image")
    return opened


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    check_size(*image.size, name)
    try:
        image.load()
        check_size(*image.size, name)  # an icon holds an image of another size
        turn = _UPRIGHT.get(_orientation(image))
        return _flatten(image if turn is None else image.transpose(turn), image, name)
    except ImageError:
        raise
    except Exception as error:  # as in _open; nearly all that decoders do they do here
        raise ImageError(f"{name}: the image is broken or truncated ({_reason(error)})") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1, as stored, where it cannot be read: the pixels are not worse for it."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # damaged EXIF makes its reader raise anything
        return 1


def _flatten(image: Image.Image, stored: Image.Image, name: str) -> Image.Image:
    """Convert an image to RGB; ``stored`` is the file that it comes from, which knows how deep its samples are."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = _to_8_bits(values, stored, name).convert("RGB")
        if isinstance(transparent, int):
            grey.paste("white", mask=Image.fromarray(np.equal(values, transparent)))
        return grey
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        # The colour has 16 bits, and Pillow has kept the upper 8 of every pixel.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    flat = image.convert("RGB")
    flat.paste("white", mask=ImageChops.invert(image.getchannel("A")))
    return flat


def _to_8_bits(values: NDArray[Any], stored: Image.Image, name: str) -> Image.Image:
    """Grey of more than 8 bits, which Pillow would clip at 255, scaled so that white stays white."""
    tags = stored.tag_v2 if isinstance(stored, TiffImagePlugin.TiffImageFile) else {}
    bits = tags.get(_BITS, (16,))[0] if stored.format in ("PNG", "PPM", "TIFF") or values.itemsize == 2 else 32
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    if stored.format == "TIFF" and bits == 32 and values.dtype == np.int32 and not signed:
        values = values.view(np.uint32)
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and most < float("inf")):
        raise ImageError(f"{name}: grey values from {least:g} to {most:g} have no brightness; fix: convert the image to 0 to 255")
    if values.dtype.kind == "f":
        # Twice as bright as white is a highlight or an overshoot of somebody's filter; more is another scale.
        whites = [limit for limit in (1.0, 255.0, 65535.0) if most <= max(2.0, limit)]
    elif bits <= 16:
        whites = [2.0 ** (bits - signed) - 1]
    else:
        whites = [limit for limit in (255.0, 65535.0, float(np.iinfo(values.dtype).max)) if most <= limit]
    if not whites:
        raise ImageError(f"{name}: grey values up to {most:g} have no known white; fix: convert the image to 0 to 255")
    # Whole numbers lose their lower bits; between floats there is a nearest level.
    scale, rounding = (255 / whites[0], 0.5) if values.dtype.kind == "f" else (256 / (whites[0] + 1), 0.0)
    scaled = np.multiply(values, scale, dtype=np.float32)
    scaled += rounding
    grey = np.minimum(scaled, 255, out=scaled).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey)


def _reason(error: Exception) -> str:
    """What a library's exception says, in a line; its name where it says nothing."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
