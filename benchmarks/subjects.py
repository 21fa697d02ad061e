"""What is measured: ONNX files through the runtime that users call, and the PyTorch original."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import MissingExtraError, ModelFormatError
from edgeresnet.images import Pixels
from edgeresnet.modelfile import read_model_file
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec

ORIGINAL_PROVIDER: Final = "PyTorch CPU"


class LoadedModel(Protocol):
    """A model that is ready to run."""

    @property
    def provider(self) -> str: ...
    def logits(self, pixels: Pixels) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


class Subject(Protocol):
    """A model that can be loaded, measured and closed again, any number of times."""

    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def size_bytes(self) -> int: ...
    def load(self) -> LoadedModel: ...


@dataclass(frozen=True)
class OnnxSubject:
    """An ONNX file on one execution provider."""

    path: Path
    spec: ModelSpec
    size_bytes: int
    provider: str
    threads: int
    runtime: str = "onnxruntime"

    @classmethod
    def of(cls, path: Path, provider: str, threads: int) -> "OnnxSubject":
        """Read what the file says of itself; the model is loaded later."""
        file = read_model_file(path)
        try:
            spec = ModelSpec.from_metadata(file.metadata)
        except ModelFormatError as error:
            raise ModelFormatError(f"{path}: {error}") from error
        return cls(path, spec, len(file.content), provider, threads)

    @property
    def name(self) -> str:
        return self.path.name

    def load(self) -> LoadedModel:
        return Session(self.path, provider=self.provider, threads=self.threads)


@dataclass(frozen=True)
class OriginalSubject:
    """The PyTorch network in eager mode: the only place where a benchmark meets PyTorch."""

    path: Path
    spec: ModelSpec
    size_bytes: int
    threads: int
    runtime: str = "pytorch"

    @classmethod
    def of(cls, checkpoint: Path | None, threads: int) -> "OriginalSubject":
        """Describe a weights file; None is the bundled one.

        Raises:
            MissingExtraError: If PyTorch is not installed.
            CheckpointError: If the weights cannot be used.
        """
        try:
            from edgeresnet.training.weights import bundled_weights, load_weights
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"the PyTorch original needs {error.name}, which", "train") from error
        path = checkpoint or bundled_weights()
        network = load_weights(path)
        return cls(path, network.spec, network.size_bytes, threads)

    @property
    def name(self) -> str:
        return self.path.name

    def load(self) -> LoadedModel:
        import torch

        from edgeresnet.training.weights import load_weights

        torch.set_num_threads(self.threads)
        return _LoadedOriginal(load_weights(self.path).logits)


@dataclass
class _LoadedOriginal:
    logits: Callable[[Pixels], NDArray[np.float32]]
    provider: str = ORIGINAL_PROVIDER

    def close(self) -> None:
        """Nothing to stop: PyTorch's threads sleep between calls."""


def check_same_weights(subjects: list[OnnxSubject], original: OriginalSubject) -> None:
    """Make sure that the original really is the original of every model.

    Raises:
        ModelFormatError: If a model was made from other weights.
    """
    for subject in subjects:
        if subject.spec.checkpoint_sha256 != original.spec.checkpoint_sha256:
            raise ModelFormatError(
                f"{subject.path}: was made from other weights ({subject.spec.checkpoint_sha256[:12]}) than {original.path} "
                f"({original.spec.checkpoint_sha256[:12]}); fix: name its weights with --original, or give --no-original"
            )
