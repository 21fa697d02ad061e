#!/usr/bin/env python3
"""Small images that become large: in pixels, in a line, in frames, in chunks of text, in tiles; and PostScript, which is a program."""

import io
import struct
import zlib

from _attack import attack
from PIL import Image

from edgeresnet.images import to_pixels


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, *chunks, bits=1):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def animation(kind, frames):
    stream = io.BytesIO()
    images = [Image.new("L", (64, 64), i % 256) for i in range(frames)]
    images[0].save(stream, kind, save_all=True, append_images=images[1:])
    return stream.getvalue()


TAGS = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offsets": 273, "samples": 277, "rows": 278}
TAGS |= {"counts": 279, "tile_width": 322, "tile_height": 323, "tile_offsets": 324, "tile_counts": 325}


def tiff(**tags):
    """A TIFF of a few tags, some of them absurd."""
    entries = sorted((TAGS[name], value) for name, value in tags.items())
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + table + bytes(4) + bytes(100)


def files(folder):
    zeros = zlib.compress(bytes(100_000_000))
    text = b"comment\0\0" + zlib.compress(b"a" * 1_000_000)
    plain = {"bits": 8, "photometric": 1, "samples": 1}
    return {
        "pixels.png": png(50_000, 50_000, chunk(b"IDAT", zeros)),
        "most_pixels.png": png(2**31 - 1, 2**31 - 1),
        "line.png": png(40_000_000, 1, chunk(b"IDAT", zeros)),
        "data.png": png(8, 8, chunk(b"IDAT", zeros), bits=8),
        "text.png": png(8, 8, *[chunk(b"zTXt", text)] * 200, chunk(b"IDAT", zeros[:100])),
        "profile.png": png(8, 8, chunk(b"iCCP", b"icc\0\0" + zeros), chunk(b"IDAT", zeros[:100])),
        "frames.gif": animation("GIF", 3000),
        "frames.tif": animation("TIFF", 500),
        "tiles.tif": tiff(width=8, height=8, tile_width=2**30, tile_height=2**30, tile_offsets=8, tile_counts=100, compression=8, **plain),
        "strips.tif": tiff(width=2**31 - 1, height=1, offsets=8, rows=1, counts=100, compression=1, **plain),
        "count.tif": tiff(width=8, height=8, offsets=8, rows=2**31 - 1, counts=2**31 - 1, compression=5, **plain),
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n("
        + bytes(folder / "owned")
        + b") (w) file closefile\n",
        "pixels.pgm": b"P5 1000000 1000000 255\n",
        "most.bmp": b"BM" + struct.pack("<IHHIIiiHHIIIIII", 1000, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
        "canvas.webp": b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<II", 10, 2) + b"\xff\x3f\0\xff\x3f\0" + bytes(100),
    }


if __name__ == "__main__":
    attack(files, lambda path: to_pixels(path, 8))
