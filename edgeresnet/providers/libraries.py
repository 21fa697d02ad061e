"""Shared libraries: what they are linked to, and whether the system finds it."""

import ctypes
import mmap
import struct
from pathlib import Path

_SHT_DYNAMIC, _DT_NEEDED = 6, 1


def linked_libraries(path: Path) -> list[str]:
    """Names of the shared libraries that a library is linked to: DT_NEEDED of a 64-bit little-endian ELF file (System V ABI)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:6] != b"\x7fELF\x02\x01":
            return []
        (table,) = struct.unpack_from("<Q", content, 40)
        size, count = struct.unpack_from("<HH", content, 58)
        # Of each section: type, offset, length, and the section that holds its strings.
        sections = [struct.unpack_from("<4xI16xQQI", content, table + i * size) for i in range(count)]
        for kind, offset, length, strings in sections:
            if kind == _SHT_DYNAMIC:
                entries = struct.iter_unpack("<qQ", content[offset : offset + length])
                starts = [sections[strings][1] + value for tag, value in entries if tag == _DT_NEEDED]
                return [content[start : content.find(b"\0", start)].decode() for start in starts]
    return []


def loads(library: str) -> bool:
    """Whether the system finds a shared library by its name."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
