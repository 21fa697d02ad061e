"""A model at work: pixels in, logits out, on the provider and the threads that were asked for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from edgeresnet.binding import BoundBatch
from edgeresnet.errors import ImageError, ModelFormatError, ProviderError
from edgeresnet.images import Pixels
from edgeresnet.lifetime import Lifetime
from edgeresnet.modelfile import ModelFile, parse_model, read_model_file
from edgeresnet.providers import PlacedNode, Provider, Settings, load_onnxruntime, open_model
from edgeresnet.providers.runtime import is_from_onnxruntime, reason_of
from edgeresnet.spec import DYNAMIC_PRECISIONS, INPUT_NAME, PROBABILITIES, ImageInput, ModelSpec
from edgeresnet.target import Target

# Up to so many pixels an image a provider's usual number is run at a time; of larger ones fewer, so that memory is enough: at 224 x 224 a
# layer of a ResNet-50 is 3 MB an image.
USUAL_PIXELS: Final = 64 * 64
# A probability that underflows has a logarithm all the same: -87.3.
SMALLEST_PROBABILITY: Final = np.finfo(np.float32).tiny


class Session:
    """A model that is ready to run on one execution provider.

    May be used from several threads at once, and by the process that opened it: threads do not survive a fork.

    Args:
        model: Path of an ONNX file, or its bytes.
        target: Where and how it runs. The session runs there or is not made.
        sha256: Hex SHA-256 that the file must have.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not a classifier with this project's metadata, or not the file with that SHA-256, or the target's
            micro-batch would make a prediction depend on its neighbours.
        ProviderError: If the provider cannot run the model here.
        MissingExtraError: If ONNX Runtime is not installed.
    """

    def __init__(self, model: Path | bytes, target: Target | None = None, *, sha256: str | None = None) -> None:
        self.target = target or Target()
        self._source = model if isinstance(model, bytes) else model.absolute()
        file = self.read_file()
        self.size_bytes = len(file.content)
        self._sha256 = file.sha256
        with _naming("the model" if isinstance(model, bytes) else str(model)):
            if sha256 is not None and sha256.lower() != self._sha256:
                raise ModelFormatError(f"has SHA-256 {self._sha256}, not {sha256} as was demanded; fix: fetch the right file")
            self.spec = _check_file(file)
            taken = open_model(file.content, self.target.provider, self.target.settings, self.spec.precision)
            opened = taken.opened
            self.fixed_batch: int | None = _check_signature(opened.session, self.spec)
        self.provider = opened.provider
        self._micro_batch = _choose_micro_batch(self.target, self.spec, taken.provider, self.fixed_batch)
        self.placement: tuple[PlacedNode, ...] = opened.placement
        self.passed_over = taken.passed_over
        self.arithmetic = taken.provider.arithmetic(self.target.settings)
        self.memory = taken.provider.memory(self.target.settings)
        self._session = opened.session
        self._lifetime = Lifetime()
        self._bound: dict[int, BoundBatch] = {}
        self._binding = Lock()
        self._streams: _Streams | None = None
        streams = self.target.streams or (self.target.cores if self.spec.precision in DYNAMIC_PRECISIONS else 1)
        if taken.provider.takes_streams and streams > 1:
            self._streams = _Streams(file.content, self.spec.precision, self.fixed_batch, streams, self.target.cores // streams)

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the model.

        An image's result does not depend on the others: a dynamically quantized model takes one activation scale for all that it
        is given at once, so it is given one image at a time, on as many parallel streams as there are threads. (CIFAR ResNet-18
        in INT8, two threads, AVX2: 200 images/s, against 172 for batches of 32 on two threads that share each product; measured by
        benchmarks/studies/streams.py.)

        Args:
            pixels: uint8 (N, height, width, channels), as ``spec.input`` describes them; any N including 0.

        Returns:
            float32 (N, classes); of a model whose output is probabilities, their natural logarithms, which are logits too.

        Raises:
            ImageError: If the array has another type or shape.
            ProviderError: If ONNX Runtime fails while it runs the model.
            ModelFormatError: If what comes out has not the shape that the model promises.
            ValueError: If the session is closed, or was opened before this process was forked off.
        """
        _check_pixels(pixels, self.spec.input)
        with self._lifetime.use():
            batches = [pixels[start : start + self._micro_batch] for start in range(0, len(pixels), self._micro_batch)]
            if self._streams is not None and len(batches) > 1:
                parts = self._streams.run(batches)
            elif self.memory.device != "cpu":
                parts = [self._run_bound(batch) for batch in batches]
            else:
                parts = [_run(self._session, batch, self.fixed_batch) for batch in batches]
        outputs = np.concatenate(parts) if parts else np.empty((0, len(self.spec.labels)), np.float32)
        if outputs.shape != (len(pixels), len(self.spec.labels)):
            raise ModelFormatError(f"the model answered {len(pixels)} image(s) with {self.spec.output} of shape {outputs.shape}")
        return to_logits(outputs, self.spec)

    def bind(self, count: int) -> BoundBatch:
        """Buffers on the device for ``count`` images at a time, to run without copies between host and device.

        Raises:
            ValueError: If the model takes another number of images at a time, or the session is closed.
        """
        if self.fixed_batch not in (None, count):
            raise ValueError(f"the model takes {self.fixed_batch} image(s) at a time, not {count}")
        with self._lifetime.use():
            return self._bind(count)

    def read_file(self) -> ModelFile:
        """The model file as it is now, which need not be as it was when the session was opened.

        Raises:
            ModelNotFoundError: If there is no such file.
            ModelFormatError: If it is not an ONNX model.
        """
        return parse_model(self._source) if isinstance(self._source, bytes) else read_model_file(self._source)

    def close(self) -> None:
        """Free the model and its threads, after the calls at hand. Closing twice is fine; running afterwards is an error.

        In a process that was forked off nothing happens: it has no threads to free.
        """
        if not self._lifetime.end():
            return
        self._session = None
        self._bound.clear()
        if self._streams is not None:
            self._streams.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled are the file's path, its checksum and the target: another process opens it anew, and answers the same or refuses."""
        with self._lifetime.use():
            return _reopen, (self._source, self.target, self._sha256)

    def _run_bound(self, pixels: Pixels) -> NDArray[np.float32]:
        """Through buffers that stay on the device, one pair for each batch size."""
        full = _fill_batch(pixels, self.fixed_batch)
        with self._binding:
            if len(full) not in self._bound:
                self._bound[len(full)] = self._bind(len(full))
            batch = self._bound[len(full)]
            batch.write(full)
            batch.run()
            return batch.read()[: len(pixels)]

    def _bind(self, count: int) -> BoundBatch:
        return BoundBatch(
            load_onnxruntime(),
            self._session,
            device=self.memory.device,
            device_id=self.memory.device_id,
            shape=(count, *self.spec.input.shape),
            output=self.spec.output,
            classes=len(self.spec.labels),
            graph_id=count if self.memory.replays else None,
        )


def to_logits(outputs: NDArray[np.float32], spec: ModelSpec) -> NDArray[np.float32]:
    """What a model answered, float32 (N, classes), as logits: of probabilities their natural logarithms, which are logits too."""
    return np.log(np.maximum(outputs, SMALLEST_PROBABILITY)) if spec.output == PROBABILITIES else outputs


def _reopen(source: Path | bytes, target: Target, sha256: str) -> Session:
    return Session(source, target, sha256=sha256)


class _Streams:
    """Parallel runs of a model. Opened when first used: the model lies in memory once more.

    Args:
        content: The ONNX file.
        precision: What the file says of its own precision.
        fixed_batch: Number of images that the model takes; None for any.
        count: Number of streams.
        threads: Threads of each.
    """

    def __init__(self, content: bytes, precision: str, fixed_batch: int | None, count: int, threads: int) -> None:
        self._content = content
        self._precision = precision
        self._fixed_batch = fixed_batch
        self._count = count
        self._threads = threads
        self._opening = Lock()
        self._session: Any = None
        self._pool: ThreadPoolExecutor | None = None

    def run(self, batches: list[Pixels]) -> list[NDArray[np.float32]]:
        """Logits of every batch, in order."""
        with self._opening:
            if self._pool is None:
                self._session = open_model(self._content, "cpu", Settings(threads=self._threads), self._precision).opened.session
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="edgeresnet")
            session, pool = self._session, self._pool
        return list(pool.map(lambda batch: _run(session, batch, self._fixed_batch), batches))

    def close(self) -> None:
        """Stop the threads after the runs at hand."""
        with self._opening:
            if self._pool is not None:
                self._pool.shutdown()
                self._session = self._pool = None


def _run(session: Any, pixels: Pixels, fixed_batch: int | None) -> NDArray[np.float32]:
    try:
        result: NDArray[np.float32] = session.run(None, {INPUT_NAME: _fill_batch(pixels, fixed_batch)})[0]
    except Exception as error:
        if not is_from_onnxruntime(error):
            raise
        raise ProviderError(f"ONNX Runtime fails to run the model on {len(pixels)} image(s) ({reason_of(error)})") from error
    return result[: len(pixels)]


def _fill_batch(pixels: Pixels, fixed_batch: int | None) -> Pixels:
    """As many images as the model takes. The last one is repeated, so that a dynamic scale is that of the images themselves."""
    missing = (fixed_batch or len(pixels)) - len(pixels)
    return np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]) if missing else pixels


def _choose_micro_batch(target: Target, spec: ModelSpec, provider: Provider, fixed_batch: int | None) -> int:
    if spec.precision in DYNAMIC_PRECISIONS:
        if target.micro_batch not in (None, 1):
            raise ModelFormatError(
                f"micro_batch must be 1 for a dynamically quantized model, not {target.micro_batch}: images share one scale"
            )
        return 1
    if fixed_batch is not None:
        if target.micro_batch not in (None, fixed_batch):
            raise ModelFormatError(
                f"micro_batch must be {fixed_batch}, the number of images that the model takes, not {target.micro_batch}"
            )
        return fixed_batch
    fitting = provider.micro_batch * USUAL_PIXELS // (spec.input.height * spec.input.width)
    return target.micro_batch or max(1, min(provider.micro_batch, fitting))


def _check_pixels(pixels: object, wanted: ImageInput) -> None:
    height, width, channels = wanted.shape
    expected = f"(N, {height}, {width}, {channels})" + (" in RGB" if channels == 3 else "")
    if not isinstance(pixels, np.ndarray):
        raise ImageError(f"pixels must be a uint8 array {expected}, not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted.shape:
        raise ImageError(f"pixels must be uint8 {expected}, not {pixels.dtype} {pixels.shape}")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the model's name before a complaint about its format."""
    try:
        yield
    except ModelFormatError as error:
        raise ModelFormatError(f"{name}: {error}") from error


def _check_file(file: ModelFile) -> ModelSpec:
    if file.has_external_data:
        raise ModelFormatError("keeps its tensors in other files; fix: export it as one file")
    return ModelSpec.from_metadata(file.metadata)


def _check_signature(session: Any, spec: ModelSpec) -> int | None:
    """Make sure that the graph is what the metadata promises; returns the number of images that it takes, None for any."""
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()]
    expected = ([(INPUT_NAME, "tensor(uint8)", list(spec.input.shape))], [(spec.output, "tensor(float)", [len(spec.labels)])])
    if (inputs, outputs) != expected:
        raise ModelFormatError(f"its inputs and outputs {inputs} -> {outputs} are not those that its metadata promises")
    batch = session.get_inputs()[0].shape[0]
    return batch if isinstance(batch, int) else None
