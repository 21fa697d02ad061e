"""The only room that knows ONNX Runtime: providers, threads, and runs that mislead nobody."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ImageError, MissingExtraError, ModelFormatError, ProviderError
from edgeresnet.images import Pixels
from edgeresnet.machine import available_cores
from edgeresnet.modelfile import ModelFile, parse_model, read_model_file
from edgeresnet.spec import DYNAMIC_PRECISIONS, INPUT_NAME, OUTPUT_NAME, ModelSpec

PROVIDERS: Final[Mapping[str, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# More images at a time leave the cache: at 32 a CIFAR ResNet-18's activations are 8 MB a layer.
MICRO_BATCH: Final = 32
# ONNX Runtime's "fatal": what it warns of means nothing to a user, and its errors arrive as exceptions.
_LOG_FATAL: Final = 4
_LIBRARY_ERROR: Final = re.compile(r"Failed to load library .* with error: (.+)")


class Session:
    """A model that is ready to run on one execution provider.

    May be used from several threads at once.

    Args:
        model: Path of an ONNX file, or its bytes.
        provider: ``cpu`` or ``cuda``. The session runs there or is not made.
        threads: Threads that one run may use on the CPU; the default is every core that this process may use.
        device_id: Which GPU.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not a classifier with this project's metadata.
        ProviderError: If the provider cannot run the model here.
        MissingExtraError: If ONNX Runtime is not installed.
    """

    def __init__(self, model: Path | bytes, *, provider: str = "cpu", threads: int | None = None, device_id: int = 0) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if device_id < 0:
            raise ValueError(f"device_id must not be negative, not {device_id}")
        file = parse_model(model) if isinstance(model, bytes) else read_model_file(model)
        name = "the model" if isinstance(model, bytes) else str(model)
        self.threads = threads or available_cores()
        with _naming(name):
            self.spec = _check_file(file)
            self._session = _open(file.content, provider, self.threads, device_id)
            _check_signature(self._session, self.spec)
        self.provider: str = self._session.get_providers()[0]
        self.size_bytes = len(file.content)
        self._streams: _Streams | None = None
        if self.spec.precision in DYNAMIC_PRECISIONS and provider == "cpu" and self.threads > 1:
            self._streams = _Streams(file.content, self.threads)

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
        """
        _check_pixels(pixels, self.spec.image_size)
        session, streams = self._session, self._streams
        if session is None:
            raise ValueError("the classifier is closed")
        step = 1 if self.spec.precision in DYNAMIC_PRECISIONS else MICRO_BATCH
        batches = [pixels[start : start + step] for start in range(0, len(pixels), step)]
        parts = [_run(session, batch) for batch in batches] if streams is None or len(batches) < 2 else streams.run(batches)
        return np.concatenate(parts) if parts else np.empty((0, len(self.spec.labels)), np.float32)

    def close(self) -> None:
        """Free the model and its threads. Closing twice is fine; running afterwards is an error."""
        self._session = None
        if self._streams is not None:
            self._streams.close()
            self._streams = None


class _Streams:
    """Parallel runs of a model, each on one thread. Opened when first used: the model lies in memory once more.

    Args:
        content: The ONNX file.
        count: Number of streams.
    """

    def __init__(self, content: bytes, count: int) -> None:
        self._content = content
        self._count = count
        self._opening = Lock()
        self._session: Any = None
        self._pool: ThreadPoolExecutor | None = None

    def run(self, batches: list[Pixels]) -> list[NDArray[np.float32]]:
        """Logits of every batch, in order."""
        with self._opening:
            if self._pool is None:
                self._session = _open(self._content, "cpu", 1, 0)
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
    result: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
    return result


def _check_pixels(pixels: object, size: int) -> None:
    if not isinstance(pixels, np.ndarray):
        raise ImageError(f"pixels must be a uint8 array (N, {size}, {size}, 3) in RGB, not {type(pixels).__name__}")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
        raise ImageError(f"pixels must be uint8 (N, {size}, {size}, 3) in RGB, not {pixels.dtype} {pixels.shape}")


def load_onnxruntime() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    module: ModuleType = onnxruntime
    return module


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


def session_options(threads: int) -> Any:
    """ONNX Runtime's options for a session that says nothing and uses ``threads`` threads, and those only while it runs."""
    options = load_onnxruntime().SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between runs take the cores from whatever else the process runs, such as streams or another classifier.
    # Within a run they still spin: the latency is the same (4.35 against 4.34 ms, CIFAR ResNet-18 in INT8, two threads).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _open(content: bytes, provider: str, threads: int, device_id: int) -> Any:
    if provider not in PROVIDERS:
        raise ProviderError(f"unknown provider {provider!r}; choose from {', '.join(PROVIDERS)}")
    ort = load_onnxruntime()
    options = session_options(threads)
    if provider == "cuda":
        return _open_on_cuda(ort, content, options, device_id)
    try:
        return ort.InferenceSession(content, options, providers=[PROVIDERS["cpu"]])
    except Exception as error:
        # ONNX Runtime's exceptions share no base class; all live in its own module or are RuntimeError.
        if not _is_from_onnxruntime(error):
            raise
        raise ModelFormatError(f"ONNX Runtime cannot load it ({_reason(error)})") from error


def _open_on_cuda(ort: ModuleType, content: bytes, options: Any, device_id: int) -> Any:
    """Open on CUDA or fail: ONNX Runtime itself would fall back to the CPU with only a warning."""
    asked = "provider 'cuda' was asked for"
    installed = f"onnxruntime {ort.__version__} with {', '.join(ort.get_available_providers())}"
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        raise ProviderError(
            f"{asked}, but the ONNX Runtime installed here is built without CUDA ({installed}); "
            "fix: pip uninstall onnxruntime, then pip install 'edgeresnet[gpu]'"
        )
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    _preload_cuda_libraries(ort)
    fix = "fix: check that `nvidia-smi` lists a GPU and that pip install 'edgeresnet[gpu]' completed, or use --provider cpu"
    with _native_stderr() as said:
        try:
            session = ort.InferenceSession(content, options, providers=[(PROVIDERS["cuda"], {"device_id": device_id})])
        except Exception as error:
            if not _is_from_onnxruntime(error):
                raise
            cause = _LIBRARY_ERROR.search(said())
            reason = cause.group(1) if cause else _reason(error)
            raise ProviderError(f"{asked}, but it cannot start: {reason} ({installed}); {fix}") from error
    if session.get_providers()[0] != PROVIDERS["cuda"]:
        raise ProviderError(f"{asked}, but ONNX Runtime chose {session.get_providers()[0]} instead ({installed}); {fix}")
    return session


@contextmanager
def _native_stderr() -> Iterator[Callable[[], str]]:
    """Catch what ONNX Runtime's libraries write to the process's stderr; yields a function that returns it.

    Why CUDA cannot start (a missing library, by name) is said there alone, over several lines: the exception only says that the
    CPU was not allowed instead.
    """
    with TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            yield read
        finally:
            os.dup2(before, 2)
            os.close(before)


def _preload_cuda_libraries(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from the nvidia wheels. What it cannot find it prints; the session's own error follows anyway."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            ort.preload_dlls()


def _reason(error: Exception) -> str:
    """What ONNX Runtime said, in one line without its status codes."""
    return " ".join(str(error).split()).split(" : ", 3)[-1][:300]


def _is_from_onnxruntime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime") or isinstance(error, RuntimeError | ValueError)


def _check_signature(session: Any, spec: ModelSpec) -> None:
    size = spec.image_size
    inputs = [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()]
    outputs = [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()]
    expected = ([(INPUT_NAME, "tensor(uint8)", [size, size, 3])], [(OUTPUT_NAME, "tensor(float)", [len(spec.labels)])])
    if (inputs, outputs) != expected:
        raise ModelFormatError(f"its inputs and outputs {inputs} -> {outputs} are not those that its metadata promises")
