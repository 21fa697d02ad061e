"""Trained weights as a safetensors file that says what network they are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.resnet import ResNet

from edgeresnet.cifar10 import ARCHITECTURE
from edgeresnet.errors import CheckpointError, ModelFormatError
from edgeresnet.files import replacing
from edgeresnet.images import Pixels
from edgeresnet.spec import ModelSpec
from edgeresnet.training.model import PixelClassifier, build_resnet18


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network read from a weights file.

    Attributes:
        model: From uint8 (N, H, W, 3) to logits, in float32 and eval mode: the original that exports are compared with.
        spec: What the file says of it; ``precision`` is that of the PyTorch original, ``fp32``.
        size_bytes: Size of the weights file.
    """

    model: PixelClassifier
    spec: ModelSpec
    size_bytes: int

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the network on uint8 (N, size, size, 3) RGB; the result is float32 (N, classes)."""
        return np.asarray(self.model(torch.from_numpy(pixels)))


def bundled_weights() -> Path:
    """Path of the weights that come with the package."""
    return Path(str(files("edgeresnet") / "models" / "resnet18-cifar10.safetensors"))


def round_to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the file will hold them: float16, integers (counters) left out."""
    return {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in state.items() if value.is_floating_point()}


def save_weights(path: Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write weights in half precision, half the size at no measurable loss; whole or not at all.

    Args:
        path: Target file.
        state: State dictionary of ``build_resnet18``.
        spec: Its description; the checksum in it is ignored, since it is that of the file itself.
    """
    with replacing(path) as temporary:
        save_file(round_to_half(state), temporary, metadata=spec.to_metadata())


def load_weights(path: Path) -> TrainedNetwork:
    """Read a weights file.

    Raises:
        CheckpointError: If there is no such file, it is not ours, or the network does not fit it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); weights come from `edgeresnet train`") from error
    content = path.read_bytes()
    metadata["edgeresnet.checkpoint_sha256"] = hashlib.sha256(content).hexdigest()
    try:
        spec = ModelSpec.from_metadata(metadata)
    except ModelFormatError as error:
        raise CheckpointError(f"{path}: these weights do not say what they are ({error})") from error
    if spec.architecture != ARCHITECTURE:
        raise CheckpointError(f"{path}: holds a {spec.architecture!r}, this release knows {ARCHITECTURE!r}")
    network = build_resnet18(len(spec.labels))
    _load_state(network, state, path)
    return TrainedNetwork(model=PixelClassifier(network, spec.mean, spec.std).eval(), spec=spec, size_bytes=len(content))


def _load_state(network: ResNet, state: dict[str, Tensor], path: Path) -> None:
    # Counters of seen batches are not stored: nothing reads them with a fixed momentum.
    state |= {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: the weights do not fit a {ARCHITECTURE} ({reason})") from error
