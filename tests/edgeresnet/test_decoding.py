"""Images as the field has them: every format, every depth, damaged, hostile."""

import contextlib
import io
import os
import random
import re
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from edgeresnet.decoding import MAX_SIDE, decode
from edgeresnet.errors import ImageError
from edgeresnet.images import to_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))
WHITE_IS_ZERO = 0


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(bits: int, colour: int, rows: bytes, transparent: bytes = b"", width: int = 32, height: int = 32) -> bytes:
    """A PNG of a kind that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    colours = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, bits: int, sample_format: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one strip and one sample a pixel."""
    data = values.tobytes()
    entries = [
        (256, 32),
        (257, 32),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 32),
        (279, len(data)),
        (339, sample_format),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + bytes(4)


def twelve_bits(values: np.ndarray) -> np.ndarray:
    first, second = values[:, ::2], values[:, 1::2]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8)


def scaled(white: float, kind: object) -> np.ndarray:
    return (RAMP * white).astype(kind)


DEPTHS = {
    "PNG of 16 bits": encode(Image.fromarray(scaled(65535, np.uint16)), "PNG"),
    "PGM of 16 bits": b"P5 32 32 65535\n" + scaled(65535, ">u2").tobytes(),
    "PGM of 12 bits": b"P5 32 32 4095\n" + scaled(4095, ">u2").tobytes(),
    "PGM of 10 bits in words": b"P2 32 32 1023\n" + b" ".join(b"%d" % value for value in scaled(1023, int).ravel()),
    "PFM": encode(Image.fromarray(scaled(1, np.float32)), "PPM"),
    "TIFF of 12 bits": tiff(twelve_bits(scaled(4095, np.uint16)), 12),
    "TIFF of 16 bits": tiff(scaled(65535, "<u2"), 16),
    "TIFF of 16 bits, white is zero": tiff(65535 - scaled(65535, "<u2"), 16, photometric=WHITE_IS_ZERO),
    "TIFF of 16 bits with sign": tiff(scaled(32767, "<i2"), 16, 2),
    "TIFF of 32 bits": tiff(scaled(2**32 - 1, "<u4"), 32),
    "TIFF of 32 bits with sign": tiff(scaled(2**31 - 1, "<i4"), 32, 2),
    "TIFF of 32 bits that uses 16": tiff(scaled(65535, "<u4"), 32),
    "TIFF of 32 bits that uses 8": tiff(scaled(255, "<i4"), 32, 2),
    "TIFF of floats to 1": tiff(scaled(1, "<f4"), 32, 3),
    "TIFF of floats to 255": tiff(scaled(255, "<f4"), 32, 3),
    "TIFF of floats to 65535": encode(Image.fromarray(scaled(65535, np.float32)), "TIFF", compression="tiff_lzw"),
    "JPEG 2000 of 16 bits": encode(Image.fromarray(scaled(65535, np.uint16)), "JPEG2000"),
    "PNG of 16 bits with transparency that nothing has": png(
        16, 0, b"".join(b"\0" + row.tobytes() for row in scaled(65535, ">u2")), b"\0\1"
    ),
    "PNG of 16 bits with alpha": png(
        16, 4, b"".join(b"\0" + np.stack([row, row * 0 + 65535], 1).astype(">u2").tobytes() for row in scaled(65535, int))
    ),
    "PNG of 16 bits a colour with transparency that nothing has": png(
        16, 2, b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in scaled(65535, ">u2")), b"\0\1\0\1\1\0"
    ),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_every_depth_keeps_its_brightness(kind):
    pixels = to_pixels(DEPTHS[kind], 32).astype(int)
    assert np.abs(pixels - np.round(255 * RAMP)[..., None]).max() <= 1


def test_grey_pil_images_of_every_mode_keep_their_brightness():
    for image in (Image.fromarray(scaled(65535, kind)) for kind in (np.uint16, np.int32, np.float32)):
        assert np.abs(to_pixels(image, 32)[..., 0] - np.round(255 * RAMP)).max() <= 1
    overshoot = scaled(1, np.float32) * 1.2
    assert np.abs(to_pixels(Image.fromarray(overshoot), 32)[..., 0] - np.minimum(255, np.round(255 * 1.2 * RAMP))).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), -5, np.int32), "from -5 to -5 have no brightness"),
        (np.full((4, 4), np.nan, np.float32), "have no brightness"),
        (np.full((4, 4), np.inf, np.float32), "have no brightness"),
        (np.full((4, 4), 1e9, np.float32), "no known white"),
    ],
)
def test_grey_without_a_known_white_is_refused_instead_of_guessed(values, message):
    with pytest.raises(ImageError, match=message):
        to_pixels(Image.fromarray(values), 4)


def test_what_is_transparent_is_white_at_every_depth():
    deep = scaled(65535, ">u2")
    hidden = png(16, 0, b"".join(b"\0" + row.tobytes() for row in deep), deep[:1, 3].tobytes())
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    expected[:, 3] = 255
    assert np.array_equal(to_pixels(hidden, 32), expected)
    deep_colour = png(16, 2, b"".join(b"\0" + np.repeat(row, 3).tobytes() for row in deep), deep[:1, 3].tobytes() * 3)
    assert np.array_equal(to_pixels(deep_colour, 32), expected)
    half = Image.fromarray(np.dstack([PIXELS, np.full((32, 32), 128, np.uint8)]))
    blended = PIXELS * (128 / 255) + 255 * (127 / 255)
    for kind in ("PNG", "WEBP", "TIFF", "TGA"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert np.abs(to_pixels(encode(half, kind, **options), 32) - blended).max() <= 1


def test_a_line_of_ten_thousand_pixels_and_one_pixel_are_images():
    for size in ((1, 1), (10_000, 1), (1, 10_000)):
        assert (to_pixels(encode(Image.new("RGB", size, (10, 20, 30)), "PNG"), 8) == (10, 20, 30)).all()
    with pytest.raises(ImageError, match=f"a side may have {MAX_SIDE:,} at most"):
        to_pixels(encode(Image.new("1", (MAX_SIDE + 1, 1)), "PNG"), 8)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(to_pixels(content, 8).astype(int) - (255, 0, 0)).max() <= 3


# What is to be seen where EXIF says that PIXELS are stored in one of its eight ways.
TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_every_exif_orientation_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(to_pixels(encode(Image.fromarray(PIXELS), kind, exif=exif), 32), TURNED[orientation])


def test_damaged_exif_costs_no_picture():
    """Three hundred damages of an EXIF chunk: each picture is read, and lies as one of the eight orientations says."""
    chance, exif = random.Random(0), Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", TiffImagePlugin.IFDRational(72, 1)
    exif.get_ifd(0x8769)[0x9201] = TiffImagePlugin.IFDRational(-3, 7)
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    content = encode(Image.fromarray(PIXELS), "PNG", exif=exif.tobytes())
    start = content.index(b"eXIf") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of some damage
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 2, 4))):
                damaged[start + chance.randrange(length)] = chance.choice((0, 1, 2, 5, 7, 10, 12, 255))
            # The checksum has to hold, or Pillow would not read the chunk.
            damaged[start + length : start + length + 4] = struct.pack(">I", zlib.crc32(damaged[start - 4 : start + length]))
            assert any(np.array_equal(to_pixels(bytes(damaged), 32), pixels) for pixels in TURNED.values())


def test_postscript_is_not_run():
    with pytest.raises(ImageError, match="PostScript"):
        decode(encode(Image.fromarray(PIXELS), "EPS"))


def test_what_a_decoder_raises_is_an_image_error():
    """AVIF's raises RuntimeError, where others raise OSError or SyntaxError."""
    for kind in ("AVIF", "WEBP", "JPEG2000", "TIFF", "GIF", "QOI", "TGA", "PCX", "DDS", "SGI", "BMP", "ICO", "ICNS"):
        content = encode(Image.fromarray(PIXELS), kind)
        for end in range(8, len(content), max(1, len(content) // 40)):
            with contextlib.suppress(ImageError):
                to_pixels(content[:end], 8)


def test_what_os_scandir_gives_is_a_path(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    for folder in (tmp_path, os.fsencode(tmp_path)):
        (entry,) = os.scandir(folder)
        np.testing.assert_array_equal(to_pixels(entry, 32), PIXELS)
        (tmp_path / "image.png").rename(tmp_path / "moved.png")
        with pytest.raises(ImageError, match=rf"^{re.escape(str(tmp_path))}/image\.png: no such file"):
            to_pixels(entry, 32)
        (tmp_path / "moved.png").rename(tmp_path / "image.png")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe that nobody writes to has no end, and a device may have none."""
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
        for name, kind in (("pipe.png", "pipe"), ("link.png", "pipe"), ("socket.png", "socket"), ("", "folder"), ("/dev/zero", "device")):
            with pytest.raises(ImageError, match=rf"cannot be read as an image \(it is a {kind}\)"):
                decode(tmp_path / name)


def test_an_image_that_was_closed_is_refused(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        pass
    with pytest.raises(ImageError, match="PIL image"):
        to_pixels(image, 32)
    with pytest.raises(ImageError, match="cannot be read"):
        to_pixels("name\0with a null", 32)
