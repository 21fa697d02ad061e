import io

import numpy as np
import pytest
from PIL import Image

from edgeresnet.decoding import MAX_PIXELS
from edgeresnet.errors import ImageError
from edgeresnet.images import to_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    image = Image.fromarray(PIXELS)
    path = tmp_path / "image.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, PIXELS):
        assert np.array_equal(to_pixels(source, 32), PIXELS)


def test_resizing_averages_instead_of_skipping_pixels():
    checkerboard = np.indices((64, 64)).sum(0) % 2 * 255
    pixels = to_pixels(np.repeat(checkerboard[..., None], 3, 2).astype(np.uint8), 16)
    assert np.abs(pixels.astype(int) - 127).max() <= 8


def test_exif_orientation_is_applied():
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert np.array_equal(to_pixels(encode(image, "PNG", exif=exif), 32), np.rot90(PIXELS, -1))


def test_grey_palette_and_transparent_images_become_rgb():
    grey = Image.fromarray(PIXELS[..., 0])
    assert np.array_equal(to_pixels(grey, 32), np.repeat(PIXELS[..., :1], 3, 2))
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(to_pixels(encode(deep, "PNG"), 32), np.repeat(PIXELS[..., :1], 3, 2))
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    assert (to_pixels(clear, 32) == 255).all()
    assert to_pixels(Image.fromarray(PIXELS).quantize(16), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", "no such file"),
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encode(Image.fromarray(PIXELS), "PNG")[:900], "broken|Truncated"),
        (encode(Image.fromarray(PIXELS), "JPEG")[:500], "broken|Truncated"),
        (PIXELS.astype(np.float32), "float32"),
        (PIXELS[..., :1], r"\(32, 32, 1\)"),
        (PIXELS[None], r"\(1, 32, 32, 3\)"),
        (np.empty((0, 32, 3), np.uint8), r"\(0, 32, 3\)"),
        (None, "NoneType"),
        (7, "int"),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_received(source, message):
    with pytest.raises(ImageError, match=message):
        to_pixels(source, 32)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        to_pixels(tmp_path, 32)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    side = int(MAX_PIXELS**0.5) + 1
    bomb = encode(Image.new("1", (side, side)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=f"limit of {MAX_PIXELS:,}"):
        to_pixels(bomb, 32)
