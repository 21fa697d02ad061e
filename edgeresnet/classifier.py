"""Images in, predictions out."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ImageError
from edgeresnet.images import ImageSource, Pixels, to_pixels
from edgeresnet.profile import Profile
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec
from edgeresnet.target import Target
from edgeresnet.verification import Verification, verify

# Enough that the network does not wait for a decoder, few enough that answers come soon.
STREAM_BATCH: Final = 64


def bundled_model() -> Path:
    """Path of the INT8 model that comes with the package."""
    return Path(str(files("edgeresnet") / "models" / "resnet18-int8.onnx"))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one image.

    Attributes:
        labels: Class names in the order of the logits.
        logits: float32 (classes,).
    """

    labels: tuple[str, ...]
    logits: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, float32 (classes,), summing to 1."""
        exponentials = np.exp(self.logits - self.logits.max())
        probabilities: NDArray[np.float32] = exponentials / exponentials.sum()
        return probabilities

    @property
    def index(self) -> int:
        """Number of the most likely class."""
        return int(self.logits.argmax())

    @property
    def label(self) -> str:
        """Name of the most likely class."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """Probability of the most likely class, 0 to 1."""
        return float(self.probabilities[self.index])

    def top(self, k: int) -> list[tuple[str, float]]:
        """The ``k`` most likely classes with their probabilities, the most likely first; all of them if there are fewer."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")[:k]
        return [(self.labels[i], float(probabilities[i])) for i in order]

    def __repr__(self) -> str:
        return f"Prediction(label={self.label!r}, score={self.score:.4f})"


class Classifier:
    """An image classifier.

    One instance may be used from many threads at once, and a prediction does not depend on the other images of its batch. A process
    that is forked off opens its own. A pickled classifier is the path of its file, with its checksum: whoever unpickles it opens that file.

    Args:
        model: Path of an ONNX file of this project; the default is the bundled INT8 CIFAR-10 network.
        provider: ``cpu``, ``cuda``, ``openvino`` or ``auto``. The model runs there or an error says why not.
        threads: CPU threads that one call may use; the default is every core that this process may use.
        provider_options: ONNX Runtime's own options of that provider, such as CUDA's ``device_id``, as text.
        target: All settings of the run, in place of the four above.
        sha256: Hex SHA-256 that the file must have: who may run what ONNX Runtime is given decides what it does.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If the file is not a model of this project, or not the one with that SHA-256.
        ProviderError: If the provider cannot run it here.
        MissingExtraError: If ONNX Runtime is not installed.
        ValueError: If a setting makes no sense.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
        target: Target | None = None,
        sha256: str | None = None,
    ) -> None:
        path = bundled_model() if model is None else Path(model)
        chosen = target or Target(provider=provider, threads=threads, provider_options=provider_options or {})
        self.session: Final = Session(path, chosen, sha256=sha256)

    @classmethod
    def from_profile(cls, path: str | PathLike[str]) -> Self:
        """Open the model of a profile as ``edgeresnet tune`` found it to be fastest on this machine.

        Raises:
            ModelFormatError: If the file is not a profile, or its model has changed since.
            ModelNotFoundError: If there is no such profile or model.
            ProviderError: If the provider cannot run the model here.
            MissingExtraError: If ONNX Runtime is not installed.
        """
        profile = Profile.read(Path(path))
        return cls(profile.model, target=profile.target, sha256=profile.model_sha256)

    @property
    def spec(self) -> ModelSpec:
        """What the model file says of itself."""
        return self.session.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.spec.labels

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the provider that really runs the model."""
        return self.session.provider

    def predict(self, image: ImageSource) -> Prediction:
        """Classify one image.

        Args:
            image: A path, encoded bytes, a PIL image, or uint8 (H, W, 3) RGB, of any size.

        Raises:
            ImageError: If it is not a readable image.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Iterable[ImageSource]) -> list[Prediction]:
        """Classify several images, each as ``predict`` would.

        Raises:
            ImageError: If one of them is not a readable image; the message has its position.
        """
        sources: Sequence[ImageSource] = list(images)
        pixels = np.empty((len(sources), *self.spec.input.shape), np.uint8)
        for i, source in enumerate(sources):
            try:
                pixels[i] = self.pixels(source)
            except ImageError as error:
                raise ImageError(f"image {i}: {error}" if len(sources) > 1 else str(error)) from error
        return [Prediction(self.labels, logits) for logits in self.logits(pixels)]

    def predict_stream(self, images: Iterable[ImageSource], *, batch_size: int = STREAM_BATCH) -> Iterator[Prediction | ImageError]:
        """Classify any number of images, in order, while the next ones are being decoded; two batches are in memory at a time.

        Args:
            images: As for ``predict``; taken from the iterable as they are needed.
            batch_size: Images that the network is given at once.

        Yields:
            A prediction for each image, or what is wrong with it.
        """
        waiting: deque[Future[Pixels]] = deque()
        with ThreadPoolExecutor(self.session.target.cores, thread_name_prefix="edgeresnet-decode") as decoders:
            try:
                for image in images:
                    waiting.append(decoders.submit(self.pixels, image))
                    if len(waiting) == 2 * batch_size:
                        yield from self._predict_decoded([waiting.popleft() for _ in range(batch_size)])
                while waiting:
                    yield from self._predict_decoded([waiting.popleft() for _ in range(min(batch_size, len(waiting)))])
            finally:
                for decoding in waiting:
                    decoding.cancel()

    def pixels(self, image: ImageSource) -> Pixels:
        """Decode one image as ``predict`` does.

        Returns:
            uint8 (height, width, channels), as ``spec.input`` describes them.

        Raises:
            ImageError: If it is not a readable image.
        """
        return to_pixels(image, self.spec.input)

    def _predict_decoded(self, batch: list[Future[Pixels]]) -> Iterator[Prediction | ImageError]:
        decoded: list[Pixels | ImageError] = []
        for decoding in batch:
            try:
                decoded.append(decoding.result())
            except ImageError as error:
                decoded.append(error)
        pixels = [entry for entry in decoded if not isinstance(entry, ImageError)]
        answers = iter(self.logits(np.stack(pixels)) if pixels else ())
        for entry in decoded:
            yield entry if isinstance(entry, ImageError) else Prediction(self.labels, next(answers))

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the network on prepared pixels.

        Args:
            pixels: uint8 (N, height, width, channels), as ``spec.input`` describes them.

        Returns:
            float32 (N, classes).

        Raises:
            ImageError: If the array has another type or shape.
        """
        return self.session.logits(pixels)

    def warmup(self, runs: int = 3, *, batch_sizes: Sequence[int] = (1,)) -> None:
        """Run the model on blank images, so that the first real call is not the slow one.

        Args:
            runs: Number of runs of each batch size.
            batch_sizes: Numbers of images that calls will have; CUDA chooses its algorithms anew for each.
        """
        for count in batch_sizes:
            for _ in range(runs):
                self.logits(np.zeros((count, *self.spec.input.shape), np.uint8))

    def verify(self) -> Verification:
        """Find out whether this machine answers as the maker's did, on a few images that the file carries.

        Raises:
            ModelFormatError: If the file carries no answers, or broken ones.
        """
        return verify(self.session)

    def close(self) -> None:
        """Free the model and its threads; the classifier cannot be used afterwards."""
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Classifier({self.spec.architecture} {self.spec.precision}, {len(self.labels)} classes, {self.provider})"
