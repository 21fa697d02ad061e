"""Many images from many places: what there is, which share of it is ours, what is done already."""

import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeresnet.errors import DataError, ImageError
from edgeresnet.imagefiles import LeftOut, in_archive, in_folder, is_archive

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Shard:
    """One of ``count`` shares of any images; which one an image belongs to follows from its name alone, wherever that is asked.

    Attributes:
        number: From 1 to ``count``.
        count: How many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``3/16``.

        Raises:
            ValueError: If it is something else.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"a shard is I/N with I from 1 to N, such as 3/16, not {text!r}")
        return cls(int(number), int(count))

    def has(self, path: str) -> bool:
        """Whether an image is in this share: its path within what was given, so that the same folder may lie elsewhere on each machine."""
        return zlib.crc32(os.fsencode(path)) % self.count == self.number - 1


@dataclass(frozen=True)
class Source:
    """An image to classify: what reports call it, and its path or content."""

    name: str
    image: str | bytes


def read_list(path: Path) -> list[str]:
    """Names of images, one a line, as the file system writes them.

    Raises:
        DataError: If the list cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: the list cannot be read ({error.strerror or error})") from error
    return [os.fsdecode(line) for line in lines if line.strip()]


def check_not_empty(places: Iterable[str]) -> None:
    """Make sure that every folder has an image, before anything is classified.

    Raises:
        ImageError: If one has none.
    """
    for place in places:
        if not place:
            raise ImageError("the name of an image is empty; fix: leave it out, or . for the current folder")
        left_out = LeftOut()
        unread: list[OSError] = []
        if not _is_folder(place) or next(in_folder(Path(place), left_out, unread.append), None) is not None:
            continue
        if unread:
            raise ImageError(_describe(unread[0], place))
        raise ImageError(f"{place}: the folder has no images{f' ({left_out})' if left_out else ''}")


def find_sources(
    places: Iterable[str],
    shard: Shard,
    done: Collection[str],
    *,
    report: Callable[[str], None] = lambda line: None,
    fail: Callable[[str], None] = lambda line: None,
) -> Iterator[Source]:
    """Images of files, folders (searched recursively), archives and standard input, one after the other, in a fixed order.

    An archive's images are called ``archive.zip/path``. Of an archive nothing but the image at hand is in memory.

    Args:
        places: Paths, or ``-``.
        shard: The share that is wanted.
        done: Names that are left out.
        report: Receives a line about what is no image.
        fail: Receives a line about an archive or folder that cannot be read to its end.
    """
    for place in places:
        left_out = LeftOut()
        try:
            yield from _look_into(place, shard, done, left_out, fail)
        except DataError as error:
            fail(str(error))
        except OSError as error:
            fail(_describe(error, place))
        if left_out:
            report(f"{place}: {left_out}")


def _look_into(place: str, shard: Shard, done: Collection[str], left_out: LeftOut, fail: Callable[[str], None]) -> Iterator[Source]:
    path = Path(place)
    found = False

    def is_wanted(within: str) -> bool:
        nonlocal found
        found = True
        return shard.has(within) and f"{place.rstrip('/')}/{within}" not in done

    if place == STANDARD_INPUT:
        yield Source(place, _read_standard_input())
    elif path.is_dir():
        for within in in_folder(path, left_out, lambda error: fail(_describe(error, place))):
            if is_wanted(within):
                name = f"{place.rstrip('/')}/{within}"
                yield Source(name, name)
    elif is_archive(path) and path.is_file():
        yield from (Source(f"{place}/{within}", content) for within, content in in_archive(path, left_out, is_wanted, fail))
        if not found:
            fail(f"{place}: the archive has no images")
    elif shard.has(place) and place not in done:
        yield Source(place, place)


def _is_folder(place: str) -> bool:
    try:
        return Path(place).is_dir()
    except OSError:
        return False  # what is wrong with it is said when its turn comes


def _describe(error: OSError, place: str) -> str:
    return f"{error.filename or place}: cannot be read ({error.strerror or error})"


def _read_standard_input() -> bytes:
    if sys.stdin is None:  # a service may be started without
        raise DataError("standard input is closed")
    return sys.stdin.buffer.read()


def count_sources(places: Iterable[str], shard: Shard, done: Collection[str]) -> int | None:
    """How many images there are, as far as that is known without reading an archive; None where it is not."""
    places = list(places)
    if any(is_archive(Path(place)) for place in places):
        return None
    return sum(1 for _ in find_sources([p for p in places if p != STANDARD_INPUT], shard, done)) + places.count(STANDARD_INPUT)


def read_done(path: Path) -> set[str]:
    """Names of the images in a file of JSON lines that a run is to go on with, after cutting off a last line that was not finished.

    Raises:
        DataError: If the file holds something else.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: cannot be gone on with (it is a device or a pipe)")
    try:
        with path.open("r+b") as file:
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            names = {json.loads(line)["image"] for line in io.BytesIO(whole)}
            if len(whole) < len(content):
                file.truncate(len(whole))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError(f"{path}: cannot be gone on with ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: holds no JSON lines of `edgeresnet predict` ({error!r}); fix: name another file") from error
    return names
