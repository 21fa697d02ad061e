"""A model at work: pixels in, logits out, on the provider and the threads that were asked for."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeresnet.binding import BoundBatch
from edgeresnet.errors import ImageError, ModelFormatError, ProviderError
from edgeresnet.images import Pixels
from edgeresnet.lifetime import Lifetime
from edgeresnet.modelfile import ModelFile, parse_model, read_model_file
from edgeresnet.providers import PlacedNode, Provider, Settings, load_onnxruntime, open_model
from edgeresnet.providers.runtime import is_from_onnxruntime, reason_of
from edgeresnet.spec import DYNAMIC_PRECISIONS, INPUT_NAME, OUTPUT_NAME, ModelSpec
from edgeresnet.target import Target


class Session:
    """A model that is ready to run on one execution provider.

    May be used from several threads at once, and by the process that opened it: threads do not survive a fork.

    Args:
        model: Path of an ONNX file, or its bytes.
        target: Where and how it runs. The session runs there or is not made.
        sha256: Hex SHA-256 that the file must have.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not a classifier with this project's metadata, or not the file with that SHA-256.
        ProviderError: If the provider cannot run the model here.
        MissingExtraError: If ONNX Runtime is not installed.
        ValueError: If the target would make a prediction depend on its neighbours.
    """

    def __init__(self, model: Path | bytes, target: Target | None = None, *, sha256: str | None = None) -> None:
        self.target = target or Target()
        self._source = model if isinstance(model, bytes) else model.absolute()
        file = parse_model(model) if isinstance(model, bytes) else read_model_file(model)
        self.size_bytes = len(file.content)
        self._sha256 = file.sha256
        with _naming("the model" if isinstance(model, bytes) else str(model)):
            if sha256 is not None and sha256.lower() != self._sha256:
                raise ModelFormatError(f"has SHA-256 {self._sha256}, not {sha256} as was demanded; fix: fetch the right file")
            self.spec = _check_file(file)
            taken = open_model(file.content, self.target.provider, self.target.settings, self.spec.precision)
            opened = taken.opened
            _check_signature(opened.session, self.spec)
        self.provider = opened.provider
        self._micro_batch = _choose_micro_batch(self.target, self.spec.precision, taken.provider)
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
            self._streams = _Streams(file.content, self.spec.precision, streams, self.target.cores // streams)

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the model.

        An image's result does not depend on the others: a dynamically quantized model takes one activation scale for all that it
        is given at once, so it is given one image at a time, on as many parallel streams as there are threads. (CIFAR ResNet-18
        in INT8, two threads, AVX2: 200 images/s, against 172 for batches of 32 on two threads that share each product; measured by
        benchmarks/streams.py.)

        Args:
            pixels: uint8 (N, size, size, 3) RGB, any N including 0.

        Returns:
            float32 (N, classes).

        Raises:
            ImageError: If the array has another type or shape.
            ProviderError: If ONNX Runtime fails while it runs the model.
            ModelFormatError: If what comes out has not the shape that the model promises.
            ValueError: If the session is closed, or was opened before this process was forked off.
        """
        _check_pixels(pixels, self.spec.image_size)
        with self._lifetime.use():
            batches = [pixels[start : start + self._micro_batch] for start in range(0, len(pixels), self._micro_batch)]
            if self._streams is not None and len(batches) > 1:
                parts = self._streams.run(batches)
            elif self.memory.device != "cpu":
                parts = [self._run_bound(batch) for batch in batches]
            else:
                parts = [_run(self._session, batch) for batch in batches]
        logits = np.concatenate(parts) if parts else np.empty((0, len(self.spec.labels)), np.float32)
        if logits.shape != (len(pixels), len(self.spec.labels)):
            raise ModelFormatError(f"the model answered {len(pixels)} image(s) with logits of shape {logits.shape}")
        return logits

    def bind(self, count: int) -> BoundBatch:
        """Buffers on the device for ``count`` images at a time, to run without copies between host and device."""
        with self._lifetime.use():
            return self._bind(count)

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
        with self._binding:
            if len(pixels) not in self._bound:
                self._bound[len(pixels)] = self._bind(len(pixels))
            batch = self._bound[len(pixels)]
            batch.write(pixels)
            batch.run()
            return batch.read()

    def _bind(self, count: int) -> BoundBatch:
        size = self.spec.image_size
        return BoundBatch(
            load_onnxruntime(),
            self._session,
            device=self.memory.device,
            device_id=self.memory.device_id,
            shape=(count, size, size, 3),
            classes=len(self.spec.labels),
            graph_id=count if self.memory.replays else None,
        )


def _reopen(source: Path | bytes, target: Target, sha256: str) -> Session:
    return Session(source, target, sha256=sha256)


class _Streams:
    """Parallel runs of a model. Opened when first used: the model lies in memory once more.

    Args:
        content: The ONNX file.
        precision: What the file says of its own precision.
        count: Number of streams.
        threads: Threads of each.
    """

    def __init__(self, content: bytes, precision: str, count: int, threads: int) -> None:
        self._content = content
        self._precision = precision
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
        return list(pool.map(lambda batch: _run(session, batch), batches))

    def close(self) -> None:
        """Stop the threads after the runs at hand."""
        with self._opening:
            if self._pool is not None:
                self._pool.shutdown()
                self._session = self._pool = None


def _run(session: Any, pixels: Pixels) -> NDArray[np.float32]:
    try:
        result: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
    except Exception as error:
        if not is_from_onnxruntime(error):
            raise
        raise ProviderError(f"ONNX Runtime fails to run the model on {len(pixels)} image(s) ({reason_of(error)})") from error
    return result


def _choose_micro_batch(target: Target, precision: str, provider: Provider) -> int:
    if precision in DYNAMIC_PRECISIONS:
        if target.micro_batch not in (None, 1):
            raise ValueError(f"micro_batch must be 1 for a dynamically quantized model, not {target.micro_batch}: images share one scale")
        return 1
    return target.micro_batch or provider.micro_batch


def _check_pixels(pixels: object, size: int) -> None:
    if not isinstance(pixels, np.ndarray):
        raise ImageError(f"pixels must be a uint8 array (N, {size}, {size}, 3) in RGB, not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
        raise ImageError(f"pixels must be uint8 (N, {size}, {size}, 3) in RGB, not {pixels.dtype} {pixels.shape}")


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


def _check_signature(session: Any, spec: ModelSpec) -> None:
    size = spec.image_size
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()]
    expected = ([(INPUT_NAME, "tensor(uint8)", [size, size, 3])], [(OUTPUT_NAME, "tensor(float)", [len(spec.labels)])])
    if (inputs, outputs) != expected:
        raise ModelFormatError(f"its inputs and outputs {inputs} -> {outputs} are not those that its metadata promises")
