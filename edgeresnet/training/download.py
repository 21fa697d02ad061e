"""Fetches CIFAR-10 through torchvision."""

import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

from edgeresnet.datasets import TORCHVISION_FOLDER
from edgeresnet.errors import DataError

CONNECT_TIMEOUT_S: Final = 15


def download_cifar10(folder: Path) -> None:
    """Put CIFAR-10 into ``folder`` in torchvision's layout, checked by its MD5; nothing happens if it is there already.

    Raises:
        DataError: If its server does not answer within 15 seconds, or the archive arrives broken.
    """
    from torchvision.datasets import CIFAR10

    if (folder / TORCHVISION_FOLDER).is_dir():
        return
    try:
        # torchvision downloads without a time limit: find out first whether anybody is there.
        request = urllib.request.Request(CIFAR10.url, method="HEAD")  # noqa: S310  # torchvision's own constant, an https address
        urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S).close()  # noqa: S310
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            CIFAR10(folder, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"CIFAR-10 cannot be downloaded from {CIFAR10.url} ({error}); pass a copy of it with --data") from error
