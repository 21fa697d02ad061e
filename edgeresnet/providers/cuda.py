"""NVIDIA's GPUs, through ONNX Runtime's GPU wheel and the nvidia wheels that it is linked to."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

from edgeresnet.errors import EdgeResNetError, ProviderError
from edgeresnet.providers.libraries import linked_libraries, loads
from edgeresnet.providers.placement import open_whole
from edgeresnet.providers.protocol import Memory, Opened, Provider, Settings
from edgeresnet.providers.runtime import (
    PROBE,
    describe_runtime,
    is_from_onnxruntime,
    load_onnxruntime,
    reason_of,
    run_probe,
    session_options,
)
from edgeresnet.spec import DYNAMIC_PRECISIONS

_LIBRARY_ERROR: Final = re.compile(r"Failed to load library .* with error: (.+)")
_CUDA_ERROR: Final = re.compile(r"CUDA failure \d+: .*?(?= ?;)|CUDNN failure \d+: .*?(?= ?;)")
_COMES_WITH: Final = {
    "libcuda.so": "the NVIDIA driver",
    "libcudart": "nvidia-cuda-runtime",
    "libcublas": "nvidia-cublas",
    "libcudnn": "nvidia-cudnn",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvrtc": "nvidia-cuda-nvrtc",
}
_ASKED: Final = "provider 'cuda' was asked for"


class Cuda:
    """See ``protocol.Provider``."""

    name = "cuda"
    runtime_name = "CUDAExecutionProvider"
    extra = "gpu"
    rank = 2
    # A GPU needs more images than a CPU to be busy.
    micro_batch = 256
    micro_batches: tuple[int, ...] = (32, 128, 256)
    # A call with one image is 30 small kernels: started as one graph, the CIFAR ResNet-18 takes 0.42 instead of 0.72 ms on an H200.
    options: tuple[Mapping[str, str], ...] = ({}, {"enable_cuda_graph": "1"})
    runs_on_cpu = False
    takes_streams = False

    def is_installed(self) -> bool:
        try:
            return self.runtime_name in load_onnxruntime().get_available_providers()
        except EdgeResNetError:
            return False

    def start(self, options: Mapping[str, str]) -> None:
        _start(tuple(sorted(options.items())))

    def open(self, content: bytes, settings: Settings, precision: str) -> Opened:
        self.start(settings.options)
        if precision in DYNAMIC_PRECISIONS and not settings.force:
            raise ProviderError(
                f"{_ASKED}, but CUDA has no kernels for the integer operators of this {precision} model: they would run "
                "on the CPU, with copies between; fix: run the model in FP16 (edgeresnet export --precision fp16), or insist with --force"
            )
        return open_whole(self, partial(_create, content, settings), settings, _reason)

    def arithmetic(self, settings: Settings) -> str | None:
        return None if settings.exact else "FP32 products run in TF32 on GPUs that have it (Ampere and later)"

    def memory(self, settings: Settings) -> Memory:
        device_id = settings.options.get("device_id", "0")
        return Memory(
            "cuda", int(device_id) if device_id.isdecimal() else 0, settings.options.get("enable_cuda_graph", "0") in ("1", "True")
        )

    def missing(self) -> list[str]:
        found = find_spec("onnxruntime")
        if found is None or found.origin is None:
            return []
        library = Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
        if not library.exists():
            return []
        with suppress(EdgeResNetError):
            _preload()
        absent = [name for name in linked_libraries(library) if not name.startswith("libcuda.so") and not loads(name)]
        return [f"{name} (comes with {origin})" for name in absent if (origin := _origin(name))]


PROVIDER: Final[Provider] = Cuda()


@cache
def _start(options: tuple[tuple[str, str], ...]) -> None:
    """Run the probe; where that worked once, the process does not try again."""
    ort = load_onnxruntime()
    if PROVIDER.runtime_name not in ort.get_available_providers():
        raise ProviderError(
            f"{_ASKED}, but the ONNX Runtime installed here is built without CUDA ({describe_runtime()}); "
            "fix: pip uninstall onnxruntime, then pip install 'edgeresnet[gpu]'"
        )
    fix = "fix: check that `nvidia-smi` lists a GPU and that pip install 'edgeresnet[gpu]' completed, or use --provider cpu"
    if options:
        fix += f"; or leave out what was set: {', '.join(f'{name}={value}' for name, value in options)}"
    _preload()
    strict = session_options(1)
    strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with _native_stderr() as said:
        try:
            session = _create(PROBE, Settings(options=dict(options)), strict)
            run_probe(session)
        except Exception as error:
            if not is_from_onnxruntime(error):
                raise
            # Why CUDA cannot start (a missing library, by name) stands in the log alone; the exception says that the CPU is no substitute.
            cause = _LIBRARY_ERROR.search(said())
            reason = _reason(error)
            if cause:
                origin = _origin(cause.group(1))
                reason = f"{cause.group(1)}, which comes with {origin}" if origin else cause.group(1)
            raise ProviderError(f"{_ASKED}, but it cannot start: {reason} ({describe_runtime()}); {fix}") from error
    if session.get_providers()[0] != PROVIDER.runtime_name:
        raise ProviderError(f"{_ASKED}, but ONNX Runtime chose {session.get_providers()[0]} instead ({describe_runtime()}); {fix}")


def _create(content: bytes, settings: Settings, options: Any) -> Any:
    chosen = {"use_tf32": "0" if settings.exact else "1", **settings.options}
    # Without enable_fallback=0 an error of CUDA's is printed to stdout and the session opened on the CPU.
    return load_onnxruntime().InferenceSession(content, options, providers=[(PROVIDER.runtime_name, chosen)], enable_fallback=0)


def _preload() -> None:
    """Load CUDA and cuDNN from the nvidia wheels. What that does not find it prints; opening a session names it anyway."""
    ort = load_onnxruntime()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            ort.preload_dlls()


def _origin(text: str) -> str | None:
    """What brings the shared library of NVIDIA's that ``text`` begins with; None if that is unknown."""
    return next((origin for library, origin in _COMES_WITH.items() if text.startswith(library)), None)


def _reason(error: Exception) -> str:
    cuda = _CUDA_ERROR.search(" ".join(str(error).split()))
    return cuda.group(0) if cuda else reason_of(error)


@contextmanager
def _native_stderr() -> Iterator[Callable[[], str]]:
    """Catch what ONNX Runtime's libraries write to the process's stderr; yields a function that returns it."""
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
