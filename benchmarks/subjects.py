"""What is measured: ONNX files through the runtime that users call, and the PyTorch original."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ModelFormatError
from edgeresnet.evaluation import Logits, collect_logits
from edgeresnet.extras import needing
from edgeresnet.images import Pixels
from edgeresnet.modelfile import read_model_file
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec
from edgeresnet.target import Target

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
class Execution:
    """How a loaded model really runs.

    Attributes:
        provider: Read back from the model.
        placement: Number of nodes on each provider; None for the original.
        arithmetic: In what FP32 products are computed, where that is not FP32.
    """

    provider: str
    placement: dict[str, int] | None = None
    arithmetic: str | None = None

    @classmethod
    def of(cls, model: LoadedModel) -> "Execution":
        """Describe a loaded model."""
        if not isinstance(model, Session):
            return cls(model.provider)
        return cls(model.provider, dict(Counter(node.provider for node in model.placement)), model.arithmetic)


@dataclass(frozen=True)
class OnnxSubject:
    """An ONNX file on one execution provider."""

    path: Path
    spec: ModelSpec
    size_bytes: int
    target: Target
    runtime: str = "onnxruntime"

    @classmethod
    def of(cls, path: Path, target: Target) -> "OnnxSubject":
        """Read what the file says of itself; the model is loaded later."""
        file = read_model_file(path)
        try:
            spec = ModelSpec.from_metadata(file.metadata)
        except ModelFormatError as error:
            raise ModelFormatError(f"{path}: {error}") from error
        return cls(path, spec, len(file.content), target)

    @property
    def name(self) -> str:
        return self.path.name

    def load(self) -> Session:
        return Session(self.path, self.target)


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
        with needing("train", "the PyTorch original"):
            from edgeresnet.training.weights import bundled_weights, load_weights
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


def collect_answers(subject: Subject, images: Pixels, track: Track = silent) -> Logits:
    """Load a model, run it over uint8 (N, size, size, 3), and close it again; returns float32 (N, classes)."""
    model = subject.load()
    try:
        return collect_logits(model, images, f"answers of {subject.name}", track)
    finally:
        model.close()


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
