"""State dictionaries in anybody's files, and fitting them to a network."""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edgeresnet.checkpoints import is_pickle
from edgeresnet.errors import CheckpointError
from edgeresnet.training.networks import Blueprint
from edgeresnet.training.pixels import first_line

# Under these training scripts keep the state dictionary among other things, and these they put before its names: those of
# DistributedDataParallel, torch.compile, and of modules that hold the network as an attribute.
NESTS: Final = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params")
NAME_PREFIXES: Final = ("module.", "_orig_mod.", "model.", "network.", "net.")
# Heads that googlenet and inception_v3 have for training alone.
TRAINING_HEADS: Final = ("aux1.", "aux2.", "AuxLogits.")
SHOWN_NAMES: Final = 3


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """What is in a file of weights.

    Attributes:
        path: The file.
        tensors: By name; floating-point ones as float32.
        metadata: Of a safetensors file.
        sha256: Hex SHA-256 of the file.
        size_bytes: Its size.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str
    size_bytes: int


def read_state(path: Path) -> StateFile:
    """Read safetensors, or a state dictionary that torch.save wrote, itself or in a dictionary. Nothing in the file is executed.

    Raises:
        CheckpointError: If there is no such file or it holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    content = path.read_bytes()
    metadata: dict[str, str] = {}
    if is_pickle(content):
        tensors = _strip_prefixes(_find_tensors(path, _unpickle(path)))
    else:
        tensors, metadata = _read_safetensors(path)
    return StateFile(
        path=path,
        tensors={name: value.float() if value.is_floating_point() else value for name, value in tensors.items()},
        metadata=metadata,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def load_state(network: nn.Module, state: StateFile, name: str) -> None:
    """Give a network the tensors of a file, all of them.

    Whole numbers that the file leaves out stay as the network has them: counters of batches, and tables that follow from its shape.

    Raises:
        CheckpointError: If they are not those of the network; says which, and how many.
    """
    own = network.state_dict()
    given = {key: value for key, value in state.tensors.items() if key in own or not key.startswith(TRAINING_HEADS)}
    given |= {key: value for key, value in own.items() if key not in given and not value.is_floating_point()}
    missing, unexpected = [key for key in own if key not in given], [key for key in given if key not in own]
    reshaped = [key for key in own if key in given and own[key].shape != given[key].shape]
    complaints = [_list("missing", missing), _list("unexpected", unexpected)]
    if reshaped:
        shapes = f"{tuple(given[reshaped[0]].shape)} instead of {tuple(own[reshaped[0]].shape)}"
        complaints.append(f"{_list('of another shape', reshaped)}, {reshaped[0]} {shapes}")
    if any(complaints):
        count = _other_class_count(own, given, reshaped) if not missing and not unexpected else None
        hint = f"; the file is for {count[1]} classes and the network was built for {count[0]}" if count else ""
        raise CheckpointError(f"{state.path}: the weights do not fit a {name}: {'; '.join(filter(None, complaints))}{hint}")
    # Its own dictionary also knows of what version each module is, which some ask for.
    own.update(given)
    network.load_state_dict(own)


def count_classes(blueprint: Blueprint, state: StateFile) -> int:
    """For how many classes the weights in a file are, by the shapes in which a network for the usual number differs from them."""
    own = blueprint.build(blueprint.classes).state_dict()
    reshaped = [key for key, value in own.items() if key in state.tensors and state.tensors[key].shape != value.shape]
    count = _other_class_count(own, state.tensors, reshaped)
    return count[1] if count and count[0] == blueprint.classes else blueprint.classes


def find_head(blueprint: Blueprint, network: nn.Module, classes: int) -> frozenset[str]:
    """Names of the tensors whose shapes depend on the number of classes; the random numbers that building takes are given back."""
    with torch.random.fork_rng(devices=[]):
        other = blueprint.build(classes + 1).state_dict()
    return frozenset(key for key, value in network.state_dict().items() if key in other and other[key].shape != value.shape)


def _other_class_count(own: Mapping[str, Tensor], given: Mapping[str, Tensor], reshaped: list[str]) -> tuple[int, int] | None:
    """Classes of a network and of weights that differ in nothing else."""
    pairs = {(own[key].shape[:1], given[key].shape[:1]) for key in reshaped}
    if len(pairs) != 1 or any(own[key].shape[1:] != given[key].shape[1:] for key in reshaped):
        return None
    ((built, found),) = pairs
    return (built[0], found[0]) if built and found else None


def _list(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN_NAMES])}{', ...' if len(names) > SHOWN_NAMES else ''})"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}) and not a state dictionary of torch.save; weights come from `edgeresnet train`, or "
            "from any training script"
        ) from error


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "weights_only" not in str(error).lower() and "unsupported" not in str(error).lower():
            raise CheckpointError(f"{path}: the file is broken ({first_line(error)})") from error
        raise CheckpointError(
            f"{path}: holds Python objects (such as a whole module), which could run any code when they are read; fix: save the "
            "network's state_dict() alone, best as safetensors"
        ) from error
    # torch.load raises whatever its pickle or zip reader meets in a broken file.
    # It may also take a file for a safetensors one, which is tried before.
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, SafetensorError, struct.error) as error:
        raise CheckpointError(f"{path}: the file is broken, or holds no state dictionary ({first_line(error)})") from error


def _find_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dictionary in what torch.load gives, which may lie deeper."""
    keys: list[str] = []
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        deeper = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if deeper is None:
            if tensors:
                return tensors
            keys = list(map(str, content))
            break
        content = content[deeper]
    found = f"a dictionary of {', '.join(keys[:6]) or 'nothing'}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise CheckpointError(f"{path}: holds {found}, not a state dictionary; fix: save the network's state_dict()")


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((prefix for prefix in NAME_PREFIXES if all(key.startswith(prefix) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
