"""Where networks come from: our own, torchvision's and timm's by name, and any that a user has written."""

import copy
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from torch import nn

from edgeresnet.cifar10 import ARCHITECTURE, CIFAR10_LABELS, CIFAR10_MEAN, CIFAR10_SIZE, CIFAR10_STD, EXPORT_STEM, NETWORK
from edgeresnet.errors import CheckpointError, NetworkError
from edgeresnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from edgeresnet.spec import ImageInput
from edgeresnet.suggestions import did_you_mean
from edgeresnet.training.model import build_resnet18
from edgeresnet.training.pixels import find_channels, first_line

TORCHVISION, TIMM = PREFIXES = ("torchvision", "timm")
FORMS: Final = f"{NETWORK}, torchvision:NAME, timm:NAME, or package.module:callable for one of your own"
# Classes that a network of unknown weights is built for at first, to compare shapes.
USUAL_CLASSES: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network that can be built for a number of classes. No weights are ever fetched.

    Attributes:
        name: What files keep: ``resnet18-cifar``, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:callable``.
        build: From the number of classes to a module: normalized float32 (N, C, H, W) in, logits out; with fresh weights.
        preprocess: What is usual for its images, at the given height and width or the usual one. Weights that are known by their
            SHA-256 may have been trained with something of their own.
        labels: Names of the classes that it usually has; empty where there are none.
        tells_normalization: Whether mean and standard deviation are the network's own, or just a usual choice for fresh weights.
    """

    name: str
    build: Callable[[int], nn.Module]
    preprocess: Callable[[tuple[int, int] | None, str], Preprocessing]
    labels: tuple[str, ...] = ()
    tells_normalization: bool = True

    @property
    def classes(self) -> int:
        """How many it usually has."""
        return len(self.labels) or USUAL_CLASSES


def find_network(name: str) -> Blueprint:
    """Find a network by the name that a user gives. One of his own is imported, from the current folder too.

    Args:
        name: One of ``FORMS``.

    Raises:
        NetworkError: If there is no such network.
        MissingExtraError: If it is timm's and timm is not installed.
    """
    if canonical(name) == ARCHITECTURE:
        return CIFAR_RESNET18
    source, _, rest = name.partition(":")
    if not rest:
        raise NetworkError(f"unknown network {name!r}{did_you_mean(name, (NETWORK, *PREFIXES))}; it must be {FORMS}")
    if source in PREFIXES:
        from edgeresnet.training import registries

        return registries.find_torchvision(rest) if source == TORCHVISION else registries.find_timm(rest)
    return _find_own(name, source, rest)


def find_stored(architecture: str, named: str | None, where: str, *, option: str = "--network") -> Blueprint:
    """Find the network that a file says it holds. A file never makes us import a module: the user must have named it.

    Args:
        architecture: What the file says.
        named: What the user named, or None.
        where: What a complaint calls the file.
        option: With which the user names it.

    Raises:
        CheckpointError: If the user named another network, or none and it is one that has to be named.
        NetworkError: As ``find_network``.
        MissingExtraError: Likewise.
    """
    if named is not None and canonical(named) != architecture:
        raise CheckpointError(f"{where}: holds {architecture!r}, not {named!r}; fix: leave {option} out, or name another file")
    if named is None and architecture != ARCHITECTURE:
        source, _, rest = architecture.partition(":")
        if rest and source not in PREFIXES:
            raise CheckpointError(
                f"{where}: holds {architecture!r}, which no file can make this program import; fix: if that is code of yours, name it "
                f"with {option} {architecture}"
            )
        if not rest:
            raise CheckpointError(f"{where}: holds a {architecture!r}, which this release does not know; fix: upgrade edgeresnet")
    return find_network(architecture)


def canonical(name: str) -> str:
    """The name that files keep for what a user names."""
    return ARCHITECTURE if name == NETWORK else name


def file_stem(architecture: str) -> str:
    """What begins the names of a network's exports."""
    if architecture == ARCHITECTURE:
        return EXPORT_STEM
    source, _, name = architecture.rpartition(":")
    if source and source not in PREFIXES:
        # Many are called build or Net.
        name = f"{source.rpartition('.')[2]}-{name}"
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-_") or "network"


def _preprocess_cifar(size: tuple[int, int] | None, sha256: str) -> Preprocessing:
    height, width = size or (CIFAR10_SIZE, CIFAR10_SIZE)
    return Preprocessing(input=ImageInput(height=height, width=width), mean=CIFAR10_MEAN, std=CIFAR10_STD)


CIFAR_RESNET18: Final = Blueprint(name=ARCHITECTURE, build=build_resnet18, preprocess=_preprocess_cifar, labels=CIFAR10_LABELS)


def _find_own(name: str, module_name: str, attribute: str) -> Blueprint:
    with _current_folder_first():
        target = _import_own(module_name, attribute)

    def build(classes: int) -> nn.Module:
        with _current_folder_first():
            return _build_own(name, target, classes)

    def preprocess(size: tuple[int, int] | None, sha256: str) -> Preprocessing:
        if size is None:
            raise NetworkError(f"{name} does not say at what size it takes images; fix: --size HxW (of train: --image-size N)")
        channels = find_channels(build(2))
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
        return Preprocessing(input=ImageInput(height=size[0], width=size[1], channels=channels), mean=mean, std=std)

    return Blueprint(name=name, build=build, preprocess=preprocess, tells_normalization=False)


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Let the user's module find its neighbours, and nothing else that is imported later be mistaken for them."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import_own(module_name: str, attribute: str) -> Any:
    try:
        target: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise NetworkError(f"{module_name}: cannot be imported: it needs {error.name}, which is not installed") from error
        raise NetworkError(
            f"there is no module {error.name!r} in the current folder ({Path.cwd()}) or among the installed packages; "
            f"--network takes {FORMS}"
        ) from error
    # It is the user's own code, which may raise anything.
    except Exception as error:
        raise NetworkError(f"{module_name}: cannot be imported ({type(error).__name__}: {first_line(error)})") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            known = tuple(name for name in dir(target) if callable(getattr(target, name)) and not name.startswith("_"))
            raise NetworkError(f"{module_name} has no {attribute!r}{did_you_mean(part, known)}")
        target = getattr(target, part)
    if not callable(target):
        raise NetworkError(f"{module_name}:{attribute} is a {type(target).__name__}, not something that builds a network")
    return target


def _build_own(name: str, target: Any, classes: int) -> nn.Module:
    """Call it with the number of classes if it takes that: as ``num_classes``, as ``classes``, or as all that it needs."""
    if isinstance(target, nn.Module):
        return copy.deepcopy(target)
    parameters = inspect.signature(target).parameters
    needed = [parameter for parameter in parameters.values() if parameter.default is parameter.empty and parameter.kind in _POSITIONAL]
    keyword = next((key for key in ("num_classes", "classes") if key in parameters), None)
    try:
        network = target(**{keyword: classes}) if keyword else target(classes) if len(needed) == 1 else target()
    # Likewise.
    except Exception as error:
        raise NetworkError(f"{name} cannot be built ({type(error).__name__}: {first_line(error)})") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} gives a {type(network).__name__}, not a torch.nn.Module")
    return network


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
