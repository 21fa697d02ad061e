"""What is measured: ONNX files through the runtime that users call, and the PyTorch original."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ModelFormatError
from edgeresnet.evaluation import Logits, collect_logits, synthetic_images
from edgeresnet.extras import needing
from edgeresnet.images import Pixels
from edgeresnet.modelfile import read_model_file
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.spec import ImageInput, ModelSpec
from edgeresnet.target import PROVIDERS, Target

# What a record calls PyTorch where it calls other rows by their execution provider.
ORIGINAL_PROVIDERS: Final = {"cpu": "PyTorch CPU", "cuda": "PyTorch CUDA"}
# Generated images that answers are compared on, up to this number of pixels each and beyond.
MANY, FEW = 256, 64
LARGE_PIXELS: Final = 128 * 128


class LoadedModel(Protocol):
    """A model that is ready to run."""

    @property
    def provider(self) -> str: ...
    def logits(self, pixels: Pixels) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


class Subject(Protocol):
    """A model that can be loaded, measured and closed again, any number of times."""

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def load(self) -> LoadedModel: ...
    def with_threads(self, threads: int) -> Self: ...


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

    @property
    def is_on_gpu(self) -> bool:
        """Whether it is a GPU's memory that the model lies in."""
        return self.provider in (ORIGINAL_PROVIDERS["cuda"], PROVIDERS["cuda"])

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
    sha256: str
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
        return cls(path, spec, len(file.content), file.sha256, target)

    @property
    def name(self) -> str:
        return self.path.name

    def load(self) -> Session:
        return Session(self.path, self.target)

    def with_threads(self, threads: int) -> Self:
        return replace(self, target=replace(self.target, threads=threads))


@dataclass(frozen=True)
class OriginalSubject:
    """The PyTorch network in eager mode: the only place where a benchmark meets PyTorch.

    Attributes:
        path: Its weights.
        spec: What they say of themselves, or the model that was made from them.
        size_bytes: Size of the file.
        threads: CPU threads that it gets.
        network: What the user names; needed where it is one of his own.
        device: ``cpu`` or ``cuda``.
        exact: Multiply FP32 in FP32 on CUDA, too, as a target with ``exact`` does.
        half: Run it in float16.
    """

    path: Path
    spec: ModelSpec
    size_bytes: int
    threads: int
    network: str | None = None
    device: str = "cpu"
    exact: bool = False
    half: bool = False
    runtime: str = "pytorch"

    @classmethod
    def of(
        cls,
        checkpoint: Path | None,
        threads: int,
        made_from_it: ModelSpec | None = None,
        network: str | None = None,
        *,
        device: str = "cpu",
        exact: bool = False,
    ) -> "OriginalSubject":
        """Describe a weights file; None is the bundled one.

        Args:
            checkpoint: Ours, or anybody's if ``made_from_it`` says what network it holds.
            threads: CPU threads that it gets.
            made_from_it: Description of a model that was made from it: how its images are treated, and what its classes are.
            network: What the user names; needed where it is one of his own.
            device: ``cpu`` or ``cuda``.
            exact: Multiply FP32 in FP32 on CUDA, too.

        Raises:
            MissingExtraError: If PyTorch is not installed.
            CheckpointError: If the weights cannot be used.
            NetworkError: If their network cannot be built.
            ModelFormatError: If the model was made from another file.
        """
        with needing("train", "the PyTorch original"):
            from edgeresnet.training.weights import bundled_weights, load_original, load_weights
        path = checkpoint or bundled_weights()
        loaded = load_weights(path, network) if made_from_it is None else load_original(path, made_from_it, network)
        return cls(path, loaded.spec, loaded.size_bytes, threads, network, device, exact)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def sha256(self) -> str:
        return self.spec.checkpoint_sha256

    def load(self) -> LoadedModel:
        import torch

        from edgeresnet.training.weights import load_original

        torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not self.exact
        trained = load_original(self.path, self.spec, self.network)
        return _LoadedOriginal(trained.to(self.device, half=self.half).logits, ORIGINAL_PROVIDERS[self.device])

    def with_threads(self, threads: int) -> Self:
        return replace(self, threads=threads)


@dataclass
class _LoadedOriginal:
    logits: Callable[[Pixels], NDArray[np.float32]]
    provider: str

    def close(self) -> None:
        """Nothing to stop: PyTorch's threads sleep between calls."""


def collect_answers(subject: Subject, images: Pixels, track: Track = silent) -> Logits:
    """Load a model, run it over uint8 (N, size, size, 3), and close it again; returns float32 (N, classes)."""
    model = subject.load()
    try:
        return collect_logits(model, images, f"answers of {subject.name}", track)
    finally:
        model.close()


def generate_images(size: ImageInput) -> Pixels:
    """Images to compare answers on where no data is at hand; fewer of them where a call takes long."""
    return synthetic_images(size, MANY if size.height * size.width <= LARGE_PIXELS else FEW)


def check_same_weights(subjects: Sequence[OnnxSubject], original: "OriginalSubject | OnnxSubject") -> None:
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
