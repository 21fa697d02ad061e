"""Finds images in folders and archives as people have them, and keeps account of what else lies there."""

import io
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from edgeresnet.errors import DataError
from edgeresnet.images import SUFFIXES

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")
# What systems put beside people's files: macOS in archives, Synology, QNAP, Windows, ext4. Names that begin with a dot are theirs too:
# ._* and .DS_Store of macOS, .ipynb_checkpoints with copies of images.
SYSTEM_NAMES: Final = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "@recycle", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"),
        *("system volume information", "lost+found"),
    }
)
# Broken links, pipes, sockets and devices; links in archives.
NO_FILE: Final = "no file behind the name"
# The largest image that is decoded, 50 megapixels of 4 channels of 16 bits, is smaller uncompressed.
MAX_FILE_BYTES: Final = 512 * 2**20


class LeftOut:
    """Account of what a search left out."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, path: str, kind: str) -> None:
        """Note one file, or a folder with all that is in it."""
        self._counts[kind] += 1
        self._examples.setdefault(kind, path)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Such as ``left out: 4 .txt files (cat/a.txt, ...), 1 hidden or of the system (.DS_Store)``."""
        parts = (f"{n:,} {kind} ({self._examples[kind]}{', ...' if n > 1 else ''})" for kind, n in self._counts.most_common())
        return f"left out: {', '.join(parts)}"


def is_of_system(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system, to go by its name."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_wanted(path: str, left_out: LeftOut) -> bool:
    """Whether a path within a folder or an archive is that of an image; else it goes into the account."""
    if any(map(is_of_system, PurePosixPath(path).parts)):
        left_out.add(path, "hidden or of the system")
        return False
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in SUFFIXES:
        left_out.add(path, f"{suffix} file(s)" if suffix else "without suffix")
        return False
    return True


def _raise(error: OSError) -> None:
    raise error


def in_folder(folder: Path, left_out: LeftOut, fail: Callable[[OSError], None] = _raise) -> Iterator[str]:
    """Paths of the images below a folder, relative to it and with slashes; folder by folder in order of the names. Links are followed.

    Args:
        folder: Where to search.
        left_out: Gets what is no image.
        fail: Receives why a folder in it cannot be read; the others are read all the same.
    """
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(parent).relative_to(folder)
        if _leads_back(Path(parent)):
            folders.clear()
            continue
        folders.sort()
        for name in list(filter(is_of_system, folders)):
            folders.remove(name)
            left_out.add((here / name).as_posix() + "/", "hidden or of the system")
        for name in sorted(files):
            path = (here / name).as_posix()
            if not is_wanted(path, left_out):
                continue
            try:
                is_file = (folder / path).is_file()
            except OSError as error:
                fail(error)
                continue
            if is_file:
                yield path
            else:
                left_out.add(path, NO_FILE)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.resolve() in [parent.resolve() for parent in folder.parents]


def is_archive(path: Path) -> bool:
    """Whether a file's name says that it is an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def in_archive(
    archive: Path,
    left_out: LeftOut,
    choose: Callable[[str], bool] = lambda path: True,
    fail: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Paths of the images in an archive, with slashes, and their content, one after the other in the archive's order.

    Args:
        archive: One of ``ARCHIVE_SUFFIXES``.
        left_out: Gets what is no image.
        choose: Whether an image's content is wanted; others are passed over.
        fail: Receives a line about an image that is damaged or encrypted where the others can be read all the same.

    Raises:
        DataError: If the archive is damaged, encrypted or of another form; without ``fail`` an image is enough.
    """
    members = _zip_members if archive.suffix.lower() == ".zip" else _tar_members
    try:
        for path, size, read in members(archive):
            if is_wanted(path, left_out) and choose(path):
                if read is None:
                    left_out.add(path, NO_FILE)
                elif size > MAX_FILE_BYTES:
                    left_out.add(path, f"larger than {MAX_FILE_BYTES:,} bytes")
                elif (content := _read(read, f"{archive}/{path}", fail)) is not None:
                    yield path, content
    # Archives of strangers make their readers raise nearly anything, from zlib.error to NotImplementedError.
    except Exception as error:
        reason = _reason(error)
        raise DataError(f"{archive}: the archive cannot be read ({reason}); it must be one of {', '.join(ARCHIVE_SUFFIXES)}") from error


def _read(read: Callable[[], bytes], name: str, fail: Callable[[str], None] | None) -> bytes | None:
    """Content of an image, or None after telling ``fail`` what is wrong with it."""
    try:
        return read()
    except Exception as error:  # as in in_archive
        if fail is None:
            raise
        fail(f"{name}: cannot be read from the archive ({_reason(error)})")
        return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# Path, size, and what reads it; None for links and devices.
_Member = tuple[str, int, Callable[[], bytes] | None]


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.is_dir():
                # Old Windows programs write backslashes.
                yield member.filename.replace("\\", "/"), member.file_size, partial(file.read, member)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as stream, tarfile.open(fileobj=_UpToItsEnd(stream), mode="r|*") as file:
        for member in file:
            if not member.isdir():
                content = file.extractfile(member) if member.isfile() else None
                yield member.name, member.size, content.read if content is not None else None


class _UpToItsEnd(io.RawIOBase):
    """A file that is not read on and on after its end, as tarfile does to skip the exabytes that a header promises."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._in_vain = stream, 0

    def read(self, size: int = -1, /) -> bytes:
        content = self._stream.read(size)
        self._in_vain = 0 if content else self._in_vain + 1
        if self._in_vain > 100:
            raise EOFError("unexpected end of data")  # as tarfile says where it finds that out itself
        return content
