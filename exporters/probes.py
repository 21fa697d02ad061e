"""Images to run a foreign model on, in the forms in which it may want them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeresnet.errors import DataError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.images import SUFFIXES, Pixels, to_pixels
from exporters.foreign.inputs import ImageTensor

# Of each kind, and fewer where images are large: the more values an image gives, the less chance decides. (With 8 images, chance alone
# makes the worst of 1,000 logits 14 dB worse than the average.)
IMAGES: Final = 12
LEAST_IMAGES: Final = 4
PIXELS: Final = IMAGES * 320 * 320
FOLDER_IMAGES: Final = 48
# For the ranges of the static form, beside those that it is proven on.
CALIBRATION_IMAGES: Final = 100
# Generated images that take no part in the proof.
CALIBRATION_SEED: Final = 1000
STROKES: Final = 3
_LETTERS: Final = [*range(ord("0"), ord("9") + 1), *range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1), ord(" ")]
# What float models expect of a pixel: mean and deviation of ImageNet's (all channels alike), a share, or the number itself.
_MEAN, _DEVIATION = 0.45, 0.225
NORMALIZED: Final = "normalized"
SHARES: Final = "0 to 1"
NUMBERS: Final = "0 to 255"
PIXEL_RANGES: Final = {"normalized": NORMALIZED, "1": SHARES, "255": NUMBERS}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Images of one kind.

    Attributes:
        name: What they are, as a message says it.
        calls: Values of the model's image input, one a call.
        generated: Whether they show nothing real.
    """

    name: str
    calls: tuple[NDArray[Any], ...]
    generated: bool = True

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.calls))


def generate_probes(image: ImageTensor, count: int | None = None, pixel_range: str | None = None, seed: int = 0) -> tuple[Probe, ...]:
    """Generated images of several kinds: coloured shapes, and letters with strokes; floats in each range that is customary.

    Args:
        image: What the model reads.
        count: Images of each kind; by default ``IMAGES``, or fewer large ones.
        pixel_range: One of ``PIXEL_RANGES``, where it is known what floats mean.
        seed: Decides the images.
    """
    count = count or max(LEAST_IMAGES, min(IMAGES, PIXELS // (image.height * image.width)))
    shapes, text = _draw_shapes(image, count, seed), _draw_text(image, count, seed)
    if image.element_type == "uint8":
        return _probe(image, shapes, "generated shapes"), _probe(image, text, "generated text")
    if pixel_range is not None:
        form = PIXEL_RANGES[pixel_range]
        return _probe(image, shapes, "generated shapes", form), _probe(image, text, "generated text", form)
    return (
        _probe(image, shapes, "generated shapes", NORMALIZED),
        _probe(image, text, "generated text", NORMALIZED),
        _probe(image, shapes, "generated shapes", SHARES),
        _probe(image, shapes, "generated shapes", NUMBERS),
    )


def load_probes(image: ImageTensor, folder: Path, pixel_range: str | None = None) -> tuple[Probe, ...]:
    """The images of a folder, stretched to the model's size; floats in each range that is customary.

    At most ``FOLDER_IMAGES`` are taken, evenly from all.

    Args:
        image: What the model reads.
        folder: Any depth of folders.
        pixel_range: One of ``PIXEL_RANGES``, where it is known what floats mean.

    Raises:
        DataError: If there is none.
        ImageError: If one is broken.
    """
    return _read_probes(image, _spread(_find_images(folder), FOLDER_IMAGES), folder, pixel_range)


def split_probes(image: ImageTensor, folder: Path, pixel_range: str | None = None) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
    """Images of a folder to take ranges from, and others to prove on; the same where there is only one.

    At most ``CALIBRATION_IMAGES`` and ``FOLDER_IMAGES`` are taken, evenly from all; half of a small folder each.

    Args:
        image: What the model reads.
        folder: As for ``load_probes``.
        pixel_range: One of ``PIXEL_RANGES``, for a model that takes floats.

    Raises:
        DataError: If there is none in the folder.
        ImageError: If one is broken.
    """
    files = _find_images(folder)
    proven = _spread(files, min(FOLDER_IMAGES, -(-len(files) // 2)))
    others = [path for path in files if path not in set(proven)] or files
    calibrating = _read_probes(image, _spread(others, CALIBRATION_IMAGES), folder, pixel_range)
    return calibrating, _read_probes(image, proven, folder, pixel_range)


def _find_images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return files


def _spread(files: Sequence[Path], count: int) -> list[Path]:
    """So many of them, evenly from all."""
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(len(files), count)).round().astype(int))]


def _read_probes(image: ImageTensor, chosen: Sequence[Path], folder: Path, pixel_range: str | None) -> tuple[Probe, ...]:
    pixels = np.stack([_fit(to_pixels(path, max(image.height, image.width)), image) for path in chosen])
    name = f"{len(chosen)} images of {folder}"
    forms = ("",) if image.element_type == "uint8" else [PIXEL_RANGES[pixel_range]] if pixel_range else [*PIXEL_RANGES.values()]
    return tuple(replace(_probe(image, pixels, name, form), generated=False) for form in forms)


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


def _draw_shapes(image: ImageTensor, count: int, seed: int) -> Pixels:
    return synthetic_images(max(image.height, image.width), count, seed)[:, : image.height, : image.width]


def _draw_text(image: ImageTensor, count: int, seed: int) -> Pixels:
    """Words and strokes, dark on bright ground and the other way round."""
    generator = np.random.default_rng(2 + seed)
    return np.stack([_draw(generator, image.width, image.height, dark=bool(i % 2)) for i in range(count)])


def _draw(generator: np.random.Generator, width: int, height: int, *, dark: bool) -> Pixels:
    ground, ink = (tuple(map(int, generator.integers(*limits, 3))) for limits in (((0, 60), (170, 256)) if dark else ((190, 256), (0, 90))))
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    lines = max(1, round(height / max(24, width / 8)))
    for line in range(lines):
        size = float(height / lines * generator.uniform(0.4, 0.8))
        letters = "".join(chr(code) for code in generator.choice(_LETTERS, max(2, round(1.5 * width / size))))
        draw.text((float(generator.uniform(0, size)), height / lines * line), letters, ink, ImageFont.load_default(size))
    for _ in range(STROKES):
        x, y, to_x, to_y = map(int, generator.integers(0, (width, height, width, height)))
        draw.line((x, y, (x + to_x) // 2, (y + to_y) // 2), ink, max(1, min(width, height) // 40))
    return np.asarray(picture)
