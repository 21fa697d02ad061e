"""Images to run a foreign model on, in the forms in which it may want them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edgeresnet.errors import DataError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.images import SUFFIXES, Pixels, to_pixels
from exporters.foreign.inputs import ImageTensor

# Of each kind. A unit's error and signal are estimated from so many images: with 8, chance alone makes the worst of 1,000 units 14 dB
# worse than the average, with 16 it is 9 dB.
IMAGES: Final = 12
FOLDER_IMAGES: Final = 48
STROKES: Final = 12
# What float models expect of a pixel: mean and deviation of ImageNet's (all channels alike), a share, or the number itself.
_MEAN, _DEVIATION = 0.45, 0.225
NORMALIZED: Final = "normalized"
SHARES: Final = "0 to 1"
NUMBERS: Final = "0 to 255"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Images of one kind.

    Attributes:
        name: What they are, as a message says it.
        calls: Values of the model's image input, one a call.
    """

    name: str
    calls: tuple[NDArray[Any], ...]

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.calls))


def generate_probes(image: ImageTensor, count: int = IMAGES) -> tuple[Probe, ...]:
    """Generated images of several kinds: coloured shapes, and thin strokes as of text; floats in each range that is customary.

    Args:
        image: What the model reads.
        count: Images of each kind.
    """
    shapes, strokes = _draw_shapes(image, count), _draw_strokes(image, count)
    if image.element_type == "uint8":
        return _probe(image, shapes, "generated shapes"), _probe(image, strokes, "generated strokes")
    return (
        _probe(image, shapes, "generated shapes", NORMALIZED),
        _probe(image, strokes, "generated strokes", NORMALIZED),
        _probe(image, shapes, "generated shapes", SHARES),
        _probe(image, shapes, "generated shapes", NUMBERS),
    )


def load_probes(image: ImageTensor, folder: Path) -> tuple[Probe, ...]:
    """The images of a folder, stretched to the model's size; floats in each range that is customary.

    At most ``FOLDER_IMAGES`` are taken, evenly from all.

    Raises:
        DataError: If there is none.
        ImageError: If one is broken.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), FOLDER_IMAGES)).round().astype(int))]
    pixels = np.stack([_fit(to_pixels(path, max(image.height, image.width)), image) for path in chosen])
    name = f"{len(chosen)} images of {folder}"
    if image.element_type == "uint8":
        return (_probe(image, pixels, name),)
    return tuple(_probe(image, pixels, name, form) for form in (NORMALIZED, SHARES, NUMBERS))


def _probe(image: ImageTensor, pixels: Pixels, name: str, form: str = "") -> Probe:
    """Calls of as many images as the model takes; where it takes any number, single ones and one of three."""
    values: NDArray[Any] = pixels
    if form:
        values = pixels.astype(np.float32)
        if form != NUMBERS:
            values /= 255
        if form == NORMALIZED:
            values = (values - _MEAN) / _DEVIATION
    size = image.batch or 1
    whole = values[: max(size, len(values) // size * size)]
    if len(whole) < size:
        whole = whole[np.arange(size) % len(whole)]
    groups: Iterable[NDArray[Any]] = [whole[start : start + size] for start in range(0, len(whole), size)]
    if image.batch is None and len(values) > 3:
        groups = [*groups, values[:3]]
    return Probe(
        name=f"{name}, {form}" if form else name, calls=tuple(image.arrange(_with_channels(group, image.channels)) for group in groups)
    )


def _with_channels(images: NDArray[Any], channels: int) -> NDArray[Any]:
    """Grey is the mean of the colours; what lies beyond three repeats them."""
    if channels == 1:
        grey: NDArray[Any] = images.mean(axis=3, keepdims=True).astype(images.dtype)
        return grey
    coloured: NDArray[Any] = images[..., np.arange(channels) % 3]
    return coloured


def _fit(pixels: Pixels, image: ImageTensor) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((image.width, image.height), Image.Resampling.BILINEAR))


def _draw_shapes(image: ImageTensor, count: int) -> Pixels:
    return synthetic_images(max(image.height, image.width), count, seed=1)[:, : image.height, : image.width]


def _draw_strokes(image: ImageTensor, count: int) -> Pixels:
    """Dark strokes on bright ground, and the other way round."""
    generator = np.random.default_rng(2)
    return np.stack([_draw(generator, image.width, image.height, dark=bool(i % 2)) for i in range(count)])


def _draw(generator: np.random.Generator, width: int, height: int, *, dark: bool) -> Pixels:
    ground, ink = (generator.integers(*limits, 3) for limits in (((0, 60), (170, 256)) if dark else ((190, 256), (0, 90))))
    picture = Image.new("RGB", (width, height), tuple(map(int, ground)))
    draw = ImageDraw.Draw(picture)
    side = max(4, min(width, height) // 3)
    for _ in range(STROKES * max(1, width // height)):
        x, y = generator.integers(0, width), generator.integers(0, height)
        to_x, to_y = generator.integers(-side, side + 1, 2)
        box = (int(x), int(y), int(x + abs(to_x) + 1), int(y + abs(to_y) + 1))
        if generator.random() < 0.5:
            draw.arc(box, int(generator.integers(0, 180)), int(generator.integers(180, 360)), tuple(map(int, ink)), max(1, side // 8))
        else:
            draw.line((int(x), int(y), int(x + to_x), int(y + to_y)), tuple(map(int, ink)), max(1, side // 8))
    return np.asarray(picture)
