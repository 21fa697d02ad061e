"""Trained weights: ours, a safetensors file that says what network they are, and anybody's, of a network that the user names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from edgeresnet.errors import CheckpointError, ModelFormatError, ProviderError
from edgeresnet.files import write_bytes
from edgeresnet.images import Pixels
from edgeresnet.preprocessing import Changes, Preprocessing
from edgeresnet.session import to_logits
from edgeresnet.spec import PREFIX, ModelSpec
from edgeresnet.training.networks import Blueprint, find_network, find_stored
from edgeresnet.training.pixels import PixelClassifier, try_network
from edgeresnet.training.states import StateFile, count_classes, load_state, read_state

AS_IT_IS = Changes()


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network with its weights.

    Attributes:
        model: From uint8 (N, H, W, C) to what the network gives, in float32 and eval mode: the original that exports are compared with.
        spec: Its description; ``precision`` is that of the PyTorch original, ``fp32``.
        size_bytes: Size of the weights file.
    """

    model: PixelClassifier
    spec: ModelSpec
    size_bytes: int

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the network on uint8 (N, H, W, C); the result is float32 (N, classes), of probabilities their logarithms.

        Raises:
            ProviderError: If the device has not enough memory.
        """
        device = self.model.mean.device
        try:
            return to_logits(np.asarray(self.model(torch.from_numpy(pixels).to(device)).float().cpu()), self.spec)
        except torch.OutOfMemoryError as error:
            raise ProviderError(f"PyTorch has not enough memory on {device} for {len(pixels)} image(s)") from error

    def to(self, device: str, *, half: bool = False) -> Self:
        """The same network on a device, such as ``cuda``; with ``half`` in float16, normalization included."""
        return replace(self, model=self.model.to(device, torch.float16 if half else torch.float32))


def bundled_weights() -> Path:
    """Path of the bundled network's weights, which come with the source: on a device nobody needs their 22 MB.

    Raises:
        CheckpointError: If the package was installed from a released wheel, which leaves them out.
    """
    path = Path(str(files("edgeresnet") / "models" / "resnet18-cifar10.safetensors"))
    if not path.is_file():
        raise CheckpointError(
            "the bundled network's PyTorch weights are not in released wheels, which go to devices; fix: name weights of your own, or "
            "install from a checkout of the source (pip install '.[export,cpu]')"
        )
    return path


def round_to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the file will hold them: float16 where that has their range; whole numbers (counters) are left out."""
    return {name: _round(value.detach().cpu()).contiguous() for name, value in state.items() if value.is_floating_point()}


def describe_network(
    blueprint: Blueprint, labels: tuple[str, ...], preprocessing: Preprocessing, *, sha256: str = "", output: str = "logits"
) -> ModelSpec:
    """Description of a network in PyTorch, made with the libraries that are installed."""
    packages = ("edgeresnet", "torch", "torchvision", *(("timm",) if blueprint.name.startswith("timm:") else ()))
    return ModelSpec(
        labels=labels,
        **vars(preprocessing),
        output=output,
        architecture=blueprint.name,
        precision="fp32",
        checkpoint_sha256=sha256,
        versions={name: version(name) for name in packages},
    )


def save_weights(path: Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write weights in half precision, half the size at no measurable loss; whole or not at all.

    Args:
        path: Target file.
        state: State dictionary of the network that ``spec`` names.
        spec: Its description; the checksum in it is ignored, since it is that of the file itself.
    """
    write_bytes(path, save(round_to_half(state), metadata=spec.to_metadata()))


def load_weights(
    path: Path, network: str | None = None, *, labels: tuple[str, ...] | None = None, changes: Changes = AS_IT_IS
) -> TrainedNetwork:
    """Read a weights file: ours, which says what network it is, or anybody's for the network that the user names.

    Args:
        path: safetensors, or a state dictionary that torch.save wrote.
        network: What the user names; None for what the file says.
        labels: Names of the classes, in the order of the outputs; None for those in the file, or the network's usual ones.
        changes: What the user says of the preprocessing.

    Raises:
        CheckpointError: If there is no such file, nobody says what network it is, or the weights do not fit that.
        NetworkError: If there is no such network, or it takes no images of that size.
        MissingExtraError: If the network is timm's and timm is not installed.
        PreprocessingError: If ``changes`` make no sense for it.
    """
    return fit_weights(read_state(path), network, labels=labels, changes=changes)


def fit_weights(
    state: StateFile,
    network: str | None,
    *,
    labels: tuple[str, ...] | None = None,
    changes: Changes = AS_IT_IS,
    option: str = "--network",
) -> TrainedNetwork:
    """As ``load_weights``, of a file that has been read; ``option`` is what complaints tell the user to name the network with."""
    known = read_spec(state)
    if known is not None:
        blueprint = find_stored(known.architecture, network, str(state.path), option=option)
        return _load_own(state, known, blueprint, labels, changes)
    if network is None:
        raise CheckpointError(f"{state.path}: these weights do not say what they are; fix: name their network with {option}")
    return _load_foreign(state, find_network(network), labels, changes)


def load_original(path: Path, spec: ModelSpec, network: str | None = None) -> TrainedNetwork:
    """Read the weights that a model was made from, to be run as that model is.

    Args:
        path: Ours or anybody's.
        spec: Of the model: its network, classes, and what happens to its images.
        network: What the user names; needed where it is one of his own.

    Raises:
        ModelFormatError: If the model was made from another file.
        CheckpointError: If there is no such file, or the weights do not fit the network.
        NetworkError: If the network cannot be built.
        MissingExtraError: If it is timm's and timm is not installed.
    """
    state = read_state(path)
    if state.sha256 != spec.checkpoint_sha256:
        raise ModelFormatError(
            f"{path}: is not what the model was made from: its SHA-256 begins with {state.sha256[:12]}, the model's with "
            f"{spec.checkpoint_sha256[:12]}; fix: name the right file with --original, or give --no-original"
        )
    blueprint = find_stored(spec.architecture, network, str(path))
    module = blueprint.build(len(spec.labels))
    load_state(module, state, blueprint.name)
    return _finish(module, replace(spec, precision="fp32", accuracy=None), state)


def _load_own(state: StateFile, known: ModelSpec, blueprint: Blueprint, labels: tuple[str, ...] | None, changes: Changes) -> TrainedNetwork:
    former = Preprocessing(input=known.input, mean=known.mean, std=known.std)
    preprocessing = changes.apply(former)
    labels = _check_count(labels, len(known.labels), state.path) or known.labels
    accuracy = known.accuracy if preprocessing == former else None
    module = blueprint.build(len(labels))
    load_state(module, state, blueprint.name)
    try_network(module, preprocessing, blueprint.name)
    return _finish(module, replace(known, labels=labels, **vars(preprocessing), accuracy=accuracy), state)


def _load_foreign(state: StateFile, blueprint: Blueprint, labels: tuple[str, ...] | None, changes: Changes) -> TrainedNetwork:
    if not blueprint.tells_normalization and not changes.normalizes:
        raise CheckpointError(
            f"{state.path}: neither the file nor {blueprint.name} says how pixels were normalized; "
            "fix: --mean and --std, or --preset imagenet"
        )
    preprocessing = changes.apply(blueprint.preprocess(changes.size, state.sha256))
    module = blueprint.build(len(labels) if labels else count_classes(blueprint, state))
    load_state(module, state, blueprint.name)
    classes, output = try_network(module, preprocessing, blueprint.name)
    names = _check_count(labels, classes, state.path) or (blueprint.labels if len(blueprint.labels) == classes else number_labels(classes))
    return _finish(module, describe_network(blueprint, names, preprocessing, sha256=state.sha256, output=output), state)


def _finish(module: nn.Module, spec: ModelSpec, state: StateFile) -> TrainedNetwork:
    return TrainedNetwork(model=PixelClassifier(module, spec.mean, spec.std).eval(), spec=spec, size_bytes=state.size_bytes)


def number_labels(classes: int) -> tuple[str, ...]:
    """Names for classes of which nobody knows any."""
    return tuple(f"class {number}" for number in range(classes))


def read_spec(state: StateFile) -> ModelSpec | None:
    """What a file of ours says; None if it is not one of ours.

    Raises:
        CheckpointError: If what it says is broken.
    """
    if PREFIX + "format_version" not in state.metadata:
        return None
    try:
        return ModelSpec.from_metadata({**state.metadata, f"{PREFIX}checkpoint_sha256": state.sha256})
    except ModelFormatError as error:
        raise CheckpointError(f"{state.path}: these weights do not say what they are ({error})") from error


def _check_count(labels: tuple[str, ...] | None, classes: int, path: Path) -> tuple[str, ...] | None:
    if labels is not None and len(labels) != classes:
        raise CheckpointError(f"{path}: the network tells {classes} classes apart, and there are {len(labels)} labels")
    return labels


def _round(value: Tensor) -> Tensor:
    """float16, unless a number is too large for it: a BatchNorm's variance may be beyond 65,504."""
    half = value.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else value.float()
