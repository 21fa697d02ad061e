"""How a training process uses the machine's memory."""

import ctypes
import sys

# From malloc.h of the GNU C library.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_KEPT = 2**30


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next allocation instead of handing it back to the system.

    A step allocates the same activations as the step before. The GNU C library maps every block of 32 MiB or more afresh and
    unmaps it when it is freed (a batch of 128 has 33.5 MB a layer in the first stage), so that each step touches a gigabyte of
    new pages, one fault per 4 KiB. ``python -m benchmarks.studies.training_step`` measures what keeping them gains. The process holds
    its largest amount of memory until it ends.

    Returns:
        Whether the C library took it; another than GNU's has no such setting, and nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all((mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT), mallopt(M_TRIM_THRESHOLD, -1)))
