"""What every attack does: it makes its files, has the product open them as a user would, and says how that ended.

An attack has failed, as it should, when it ends with exit status 0: every file was refused with an error of the product's own, or
read for what it is, within seconds and a gigabyte, and no code of the attacker's ran.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgeresnet import EdgeResNetError

SECONDS = 30
MEGABYTES = 1000


def attack(files: Callable[[Path], Mapping[str, bytes]], victim: Callable[[Path], object]) -> None:
    """Write ``files``, let ``victim`` open each of them and exit.

    Args:
        files: Makes the content of each file, by name; gets the folder that they will lie in.
        victim: What a user would do with one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        owned = folder / "owned"
        for file, content in files(folder).items():
            path = folder / file
            path.write_bytes(content)
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                victim(path)
                outcome = "read for what it is"
            except EdgeResNetError as error:
                outcome = f"refused: {str(error)[:150]}"
            seconds = time.perf_counter() - started
            grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(f"{file}, {len(content):,} bytes: {outcome} ({seconds:.1f} s, {grown_mb:.0f} MB)")
            assert not owned.exists(), "the attacker's code ran"
            assert seconds < SECONDS
            assert grown_mb < MEGABYTES
    sys.exit(0)
