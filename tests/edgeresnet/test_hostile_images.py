"""Damaged and hostile images: a prediction's pixels or an ImageError; never another exception, a crash, a hang or a gigabyte.

The short form is part of the tests; the long one is a command that goes on for as long as one likes:

    python tests/edgeresnet/test_hostile_images.py --minutes 10

It fuzzes every form in which Pillow writes images here. What ends it is left in a file, with the traceback on stderr.
"""

import argparse
import faulthandler
import io
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from edgeresnet.errors import ImageError
from edgeresnet.images import to_pixels

SECONDS = 20
MEGABYTES = 1000
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F")
# What lengths, counts, sizes and offsets are mistaken about.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 30_000, 100_000)


def write_all_forms() -> dict[str, bytes]:
    """A small picture in every format and mode that Pillow writes, plain, with EXIF and animated."""
    Image.init()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    forms = {}
    for kind in sorted(set(Image.SAVE) - {"PDF", "EPS"}):
        for mode in MODES:
            image = picture.convert("L").convert(mode) if mode in ("I;16", "I", "F", "1") else picture.convert(mode)
            for name, options in (("plain", {}), ("exif", {"exif": exif}), ("animated", {"save_all": True, "append_images": [image] * 2})):
                stream = io.BytesIO()
                try:
                    image.save(stream, kind, **options)
                except Exception:  # noqa: BLE001  # this format has no such mode
                    continue
                if stream.getvalue() not in forms.values():
                    forms[f"{kind} {mode} {name}"] = stream.getvalue()
    return forms


FORMS = write_all_forms()
PLACES = st.integers(0, 2**16)
# An operation with where in the file, with what, and how long.
DAMAGES = st.lists(
    st.tuples(st.sampled_from(("flip", "set", "number", "cut", "repeat", "drop", "graft")), PLACES, PLACES, st.integers(1, 64)),
    min_size=1,
    max_size=6,
)


def damage(content: bytes, operations: list[tuple[str, int, int, int]]) -> bytes:
    """Apply operations, most of them near the front, where headers are."""
    data = bytearray(content)
    donors = list(FORMS.values())
    for operation, where, what, length in operations:
        place = where % min(len(data), 96 if where % 2 else len(data)) if data else 0
        if operation == "flip" and data:
            data[place] ^= 1 << what % 8
        elif operation == "set" and data:
            data[place] = what % 256
        elif operation == "number":
            size, order = (2, 4)[length % 2], ("little", "big")[length // 2 % 2]
            data[place : place + size] = (NUMBERS[what % len(NUMBERS)] % 256**size).to_bytes(size, order)
        elif operation == "cut":
            del data[place + what % (len(data) + 1) :]
        elif operation == "repeat":
            data[place:place] = data[place : place + length] * (1 + what % 50)
        elif operation == "drop":
            del data[place : place + length]
        elif operation == "graft":
            donor = donors[what % len(donors)]
            data[place : place + length] = donor[place : place + length]
    return bytes(data)


def check(content: bytes) -> str:
    """Classify what happened; raises whatever a caller should never see."""
    started = time.perf_counter()
    try:
        pixels = to_pixels(content, 8)
    except ImageError:
        outcome = "refused"
    else:
        assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
        outcome = "read"
    assert time.perf_counter() - started < SECONDS
    return outcome


def test_every_form_that_pillow_writes_is_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unreadable = {name for name, content in FORMS.items() if check(content) == "refused"}
    # Pillow does not read PALM, and writes an icon with a palette that it does not read.
    assert {name for name in unreadable if not name.startswith("PALM")} <= {"ICNS P plain"}
    assert len({name.split()[0] for name in FORMS}) > 15


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FORMS)), DAMAGES)
def test_a_damaged_image_is_read_or_refused(name, operations):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of some damage
        check(damage(FORMS[name], operations))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from(sorted(FORMS)))
def test_any_bytes_are_read_or_refused(content, name):
    check(content)
    check(FORMS[name][:16] + content)


def fuzz(minutes: float, first_seed: int) -> None:
    """Go on with new damage until the time is over."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    last = Path(tempfile.gettempdir()) / "edgeresnet-fuzz-last-image"
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + 60 * minutes
    slowest = 0.0
    rounds = 0

    def one(name: str, operations: list[tuple[str, int, int, int]]) -> None:
        nonlocal slowest
        content = damage(FORMS[name], operations)
        last.write_bytes(content)
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
        started = time.perf_counter()
        outcomes[f"{name.split(maxsplit=1)[0]} {check(content)}"] += 1
        slowest = max(slowest, time.perf_counter() - started)
        grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
        assert grown_mb < MEGABYTES, f"{grown_mb:.0f} MB"

    faulthandler.enable()
    while time.monotonic() < until:
        run = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))(
            given(st.sampled_from(sorted(FORMS)), DAMAGES)(one)
        )
        seed(first_seed + rounds)(run)()
        rounds += 1
    faulthandler.cancel_dump_traceback_later()
    last.unlink()
    formats = sorted({key.split()[0] for key in outcomes})
    totals = {outcome: sum(n for key, n in outcomes.items() if key.endswith(outcome)) for outcome in ("read", "refused")}
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    print(f"{sum(totals.values()):,} damaged images of {len(formats)} formats ({', '.join(formats)}) in {minutes:g} minutes:")
    print(f"{totals['read']:,} read, {totals['refused']:,} refused; slowest {slowest:.2f} s, memory grew by {grown_mb:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fuzz(arguments.minutes, arguments.seed)
    sys.exit(0)
