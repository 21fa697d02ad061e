"""The only room that loads ONNX Runtime: opens a model on the provider that was asked for, or says why it cannot.

ONNX Runtime itself falls back to the CPU with a warning, or without one. Here every other outcome than the wanted one is an error.
Each module that has a ``PROVIDER`` (see ``protocol``) is one that users can name; ``ALL`` finds them, so that another is one file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Final

from edgeresnet.errors import ProviderError
from edgeresnet.providers.placement import list_operators
from edgeresnet.providers.protocol import Memory, Opened, PlacedNode, Provider, Settings
from edgeresnet.providers.runtime import PROBE, load_onnxruntime, session_options, survive_forks

__all__ = [
    "ALL",
    "AUTO",
    "PROBE",
    "Memory",
    "Opened",
    "PlacedNode",
    "Provider",
    "Settings",
    "Taken",
    "list_operators",
    "load_onnxruntime",
    "open_model",
    "session_options",
]

AUTO: Final = "auto"


def _find_all() -> dict[str, Provider]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return {module.PROVIDER.name: module.PROVIDER for module in modules if hasattr(module, "PROVIDER")}


ALL: Final[Mapping[str, Provider]] = _find_all()


@dataclass(frozen=True)
class Taken:
    """A model that is ready to run, and who runs it.

    Attributes:
        opened: The model.
        provider: Who runs it.
        passed_over: With ``auto``, why each provider that comes before was not taken.
    """

    opened: Opened
    provider: Provider
    passed_over: tuple[str, ...] = ()


def open_model(content: bytes, provider: str, settings: Settings, precision: str) -> Taken:
    """Open a model where it was asked to run.

    Args:
        content: The ONNX file.
        provider: A key of ``ALL``, or ``auto`` for the first of them, by rank, that takes the whole model.
        settings: How it is to run there.
        precision: What the file says of its own precision.

    Raises:
        ProviderError: If the provider cannot start here or, without ``settings.force``, would leave nodes to the CPU.
        ModelFormatError: If ONNX Runtime cannot load the model.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    taken = _take(content, provider, settings, precision)
    survive_forks(taken.opened.session)
    return taken


def _take(content: bytes, provider: str, settings: Settings, precision: str) -> Taken:
    if provider != AUTO:
        return Taken(ALL[provider].open(content, settings, precision), ALL[provider])
    passed_over: list[str] = []
    *others, last = sorted(ALL.values(), key=lambda candidate: -candidate.rank)
    for candidate in others:
        try:
            opened = candidate.open(content, replace(settings, force=False), precision)
        except ProviderError as error:
            passed_over.append(str(error))
        else:
            return Taken(opened, candidate, tuple(passed_over))
    return Taken(last.open(content, settings, precision), last, tuple(passed_over))
