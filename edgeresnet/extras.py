"""Packages that are not there: an extra that was not installed, or a folder of the user's own that stands in the way."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeresnet.errors import EdgeResNetError, MissingExtraError

OUR_PACKAGES: Final = ("edgeresnet", "exporters", "benchmarks")


@contextmanager
def needing(extra: str, user: str = "") -> Iterator[None]:
    """Import what an extra brings within this block, and get an error with the true reason where that fails.

    Args:
        extra: Name of the extra, such as ``train``.
        user: What needs it, where that is not plain from what was called.

    Raises:
        MissingExtraError: If a package is not installed.
        EdgeResNetError: If another package or folder of that name is found in its place.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        place = folder_of(package)
        if place is not None:
            raise EdgeResNetError(
                f"{error.name} is not in {place / package}: that {package} is another than the one that is wanted; "
                f"fix: run from another folder, or rename `{package}` if it is yours"
            ) from error
        raise MissingExtraError(f"{user} needs {package}, which" if user else package, extra) from error


def folder_of(package: str) -> Path | None:
    """The folder in which an import would find a package; None if there is none."""
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    # A package's entrance lies in its folder, a module stands alone, a folder without an entrance is a package too.
    if found.origin is not None:
        return Path(found.origin).parents[1 if found.submodule_search_locations else 0]
    return next((Path(place).parent for place in found.submodule_search_locations or ()), None)


def claim_own_names() -> None:
    """Import our packages of common names from beside this one, though the user may have a folder ``benchmarks`` where the command runs."""
    home = Path(__file__).parent.parent
    for name in OUR_PACKAGES:
        entrance = home / name / "__init__.py"
        if name in sys.modules or folder_of(name) == home or not entrance.exists():
            continue
        spec = importlib.util.spec_from_file_location(name, entrance)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
