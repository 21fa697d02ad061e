"""Files appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Final

# Names may have 255 bytes; what is added here takes some of them.
_LONGEST_STEM: Final = 40


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that takes its place when the block succeeds.

    If the block raises, the temporary file is removed and whatever stood at ``target`` before is untouched. Whenever the process is
    killed or the power fails, ``target`` is the old file or the new one; only then the temporary one, whose name begins with a dot,
    may be left.

    A link stays: what it leads to is replaced. What is no file, such as /dev/null, would become one and is refused.

    Raises:
        OSError: If the file cannot be written; it names the target.
    """
    target = _settle(target)
    temporary = _beside(target)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # Or the new name could reach the disk before the content does.
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        # That the disk is full is said of an open file, whose name is not known there.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write ``content``, whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(target, text.encode())


def check_writable(target: Path) -> None:
    """Find out before long work that a file cannot be written after it; a full disk is not found out.

    Raises:
        OSError: If it cannot be; it names the target.
    """
    target = _settle(target)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    temporary = _beside(target)
    try:
        temporary.touch()
    except OSError as error:
        error.filename = str(target)
        raise
    temporary.unlink()


def _settle(target: Path) -> Path:
    """Where a file is really written, in a folder that is there."""
    if target.is_symlink():
        target = target.resolve()
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "is a device or a pipe, and only a file can be written whole or not at all", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem[:_LONGEST_STEM]}.{os.getpid()}-{get_ident()}{target.suffix}")
