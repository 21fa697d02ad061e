"""The only room that loads ONNX Runtime: opens a model on the provider that was asked for, or says why it cannot.

ONNX Runtime itself falls back to the CPU with a warning, or without one. Here every other outcome than the wanted one is an error.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from io import StringIO
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any, Final

import numpy as np

from edgeresnet.errors import EdgeResNetError, MissingExtraError, ModelFormatError, ProviderError
from edgeresnet.machine import cpu_model
from edgeresnet.spec import DYNAMIC_PRECISIONS
from edgeresnet.target import AUTO, PROVIDERS, Target

# ONNX Runtime's "fatal": what it warns of means nothing to a user, and its errors arrive as exceptions.
_LOG_FATAL: Final = 4
_LIBRARY_ERROR: Final = re.compile(r"Failed to load library .* with error: (.+)")
_COMES_WITH: Final = {
    "libcuda.so": "the NVIDIA driver",
    "libcudart": "nvidia-cuda-runtime",
    "libcublas": "nvidia-cublas",
    "libcudnn": "nvidia-cudnn",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvrtc": "nvidia-cuda-nvrtc",
}
_CUDA_ERROR: Final = re.compile(r"CUDA failure \d+: .*?(?= ?;)|CUDNN failure \d+: .*?(?= ?;)")
# y = Conv(x, x) of one float: a model that every provider takes, so that what fails is the provider. On CUDA it needs cuDNN too.
PROBE: Final = bytes.fromhex(
    "08083a520a0f0a01780a01781201792204436f6e76120570726f62655a1b0a017812160a14080112100a0208010a0208010a0208010a020801621b0a"
    "017912160a14080112100a0208010a0208010a0208010a02080142040a00100d"
)


@dataclass(frozen=True)
class PlacedNode:
    """A node of a model and the provider that runs it.

    Attributes:
        provider: ONNX Runtime's name of the provider.
        operator: Such as ``Conv``.
        name: Of the node in the file.
    """

    provider: str
    operator: str
    name: str


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run.

    Attributes:
        session: ONNX Runtime's session.
        provider: ONNX Runtime's name of the provider that runs it, read back from the session.
        placement: Every node with its provider.
        passed_over: With ``auto``, why each provider that comes before was not taken.
    """

    session: Any
    provider: str
    placement: tuple[PlacedNode, ...]
    passed_over: tuple[str, ...] = ()


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


def session_options(threads: int) -> Any:
    """ONNX Runtime's options for a session that says nothing and uses ``threads`` threads, and those only while it runs."""
    options = load_onnxruntime().SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between runs take the cores from whatever else the process runs, such as streams or another classifier.
    # Within a run they still spin: the latency is the same (4.35 against 4.34 ms, CIFAR ResNet-18 in INT8, two threads).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def open_model(content: bytes, target: Target, precision: str) -> Opened:
    """Open a model where it was asked to run.

    Args:
        content: The ONNX file.
        target: Where and how.
        precision: What the file says of its own precision.

    Raises:
        ProviderError: If the provider cannot start here or, without ``target.force``, would leave nodes to the CPU.
        ModelFormatError: If ONNX Runtime cannot load the model.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    if target.provider != AUTO:
        return _OPENERS[target.provider](content, target, precision)
    passed_over: list[str] = []
    for provider in ("cuda", "openvino"):
        try:
            opened = _OPENERS[provider](content, replace(target, provider=provider, force=False), precision)
        except ProviderError as error:
            passed_over.append(str(error))
        else:
            return replace(opened, passed_over=tuple(passed_over))
    return replace(_open_on_cpu(content, target, precision), passed_over=tuple(passed_over))


def reduced_arithmetic(provider: str, target: Target) -> str | None:
    """In what FP32 products are really computed, as a phrase; None where that is FP32.

    Args:
        provider: ONNX Runtime's name of one that starts here.
        target: Its settings.
    """
    if target.exact or provider == PROVIDERS["cpu"]:
        return None
    if provider == PROVIDERS["cuda"]:
        return "FP32 products run in TF32 on GPUs that have it (Ampere and later)"
    has_bfloat16 = "BF16" in start_openvino().ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()
    return "FP32 layers run in bfloat16 on this processor" if has_bfloat16 else None


def list_operators(nodes: Sequence[PlacedNode], most: int = 4) -> str:
    """Nodes by operator, the most frequent first, such as ``20 MatMulInteger (node_conv, ...), 1 Cast (cast_0)``."""
    counts = Counter(node.operator for node in nodes)
    first = {node.operator: node.name for node in reversed(nodes)}
    parts = [f"{count} {operator} ({first[operator]}{', ...' if count > 1 else ''})" for operator, count in counts.most_common(most)]
    return ", ".join(parts) + (f" and {len(counts) - most} more operators" if len(counts) > most else "")


def _open_on_cpu(content: bytes, target: Target, precision: str) -> Opened:
    ort = load_onnxruntime()
    try:
        session = ort.InferenceSession(content, session_options(target.cores), providers=[PROVIDERS["cpu"]])
    except Exception as error:
        if not _is_from_onnxruntime(error):
            raise
        raise ModelFormatError(f"ONNX Runtime cannot load it ({_reason(error)})") from error
    return Opened(session, session.get_providers()[0], _read_placement(session))


def _open_on_cuda(content: bytes, target: Target, precision: str) -> Opened:
    start_cuda(target.device_id)
    if precision in DYNAMIC_PRECISIONS and not target.force:
        raise ProviderError(
            f"provider 'cuda' was asked for, but CUDA has no kernels for the integer operators of this {precision} model: they would run "
            "on the CPU, with copies between; fix: run the model in FP16 (edgeresnet export --precision fp16), or insist with --force"
        )
    return _open_whole(lambda options: _create_on_cuda(content, options, target), target)


def start_provider(provider: str) -> None:
    """Make sure that a provider can run something at all.

    Args:
        provider: A key of ``PROVIDERS``.

    Raises:
        ProviderError: If it cannot start here.
        ModelFormatError: If not even the CPU runs ``PROBE``.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    if provider == "cuda":
        start_cuda()
    elif provider == "openvino":
        start_openvino()
    else:
        run_probe(_open_on_cpu(PROBE, Target(threads=1), "fp32").session)


@cache
def start_cuda(device_id: int = 0) -> None:
    """Make sure that CUDA can run something at all; where it could once, the process does not try again.

    Raises:
        ProviderError: If it cannot: what is there, what is missing by name, and what to do.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    ort = load_onnxruntime()
    asked = "provider 'cuda' was asked for"
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        raise ProviderError(
            f"{asked}, but the ONNX Runtime installed here is built without CUDA ({_describe(ort)}); "
            "fix: pip uninstall onnxruntime, then pip install 'edgeresnet[gpu]'"
        )
    fix = "fix: check that `nvidia-smi` lists a GPU and that pip install 'edgeresnet[gpu]' completed, or use --provider cpu"
    preload_cuda_libraries(ort)
    options = session_options(1)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with _native_stderr() as said:
        try:
            session = _create_on_cuda(PROBE, options, Target(provider="cuda", device_id=device_id))
            run_probe(session)
        except Exception as error:
            if not _is_from_onnxruntime(error):
                raise
            # Why CUDA cannot start (a missing library, by name) stands in the log alone; the exception says that the CPU is no substitute.
            cause = _LIBRARY_ERROR.search(said())
            reason = _reason(error)
            if cause:
                origin = library_origin(cause.group(1))
                reason = f"{cause.group(1)}, which comes with {origin}" if origin else cause.group(1)
            raise ProviderError(f"{asked}, but it cannot start: {reason} ({_describe(ort)}); {fix}") from error
    if session.get_providers()[0] != PROVIDERS["cuda"]:
        raise ProviderError(f"{asked}, but ONNX Runtime chose {session.get_providers()[0]} instead ({_describe(ort)}); {fix}")


def run_probe(session: Any) -> None:
    """Run ``PROBE`` once: some libraries are loaded by the first run only."""
    session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})


def preload_cuda_libraries(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from the nvidia wheels. What that does not find it prints; opening a session names it anyway."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            ort.preload_dlls()


def _create_on_cuda(content: bytes, options: Any, target: Target) -> Any:
    settings = {
        "device_id": target.device_id,
        "use_tf32": int(not target.exact),
        "cudnn_conv_algo_search": target.convolution_search.upper(),
        "enable_cuda_graph": int(target.cuda_graph),
    }
    if target.gpu_memory_mb is not None:
        settings["gpu_mem_limit"] = target.gpu_memory_mb * 2**20
    # Without enable_fallback=0 an error of CUDA's is printed to stdout and the session opened on the CPU.
    return load_onnxruntime().InferenceSession(content, options, providers=[(PROVIDERS["cuda"], settings)], enable_fallback=0)


def _open_on_openvino(content: bytes, target: Target, precision: str) -> Opened:
    ort = load_onnxruntime()
    device = start_openvino()
    properties = {"INFERENCE_NUM_THREADS": str(target.cores)}
    if target.exact:
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    settings = {"load_config": json.dumps({"CPU": properties})}

    def create(options: Any) -> Any:
        options.add_provider_for_devices([device], settings)
        return ort.InferenceSession(content, options)

    return _open_whole(create, target)


def start_openvino() -> Any:
    """Load OpenVINO's plugin for ONNX Runtime.

    Returns:
        ONNX Runtime's handle of the CPU as an OpenVINO device.

    Raises:
        ProviderError: If the plugin is not installed or takes no processor of this machine.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    ort = load_onnxruntime()
    asked = "provider 'openvino' was asked for"
    name = PROVIDERS["openvino"]
    if find_spec("onnxruntime_ep_openvino") is None:
        raise ProviderError(f"{asked}, but its plugin is not installed ({_describe(ort)}); fix: pip install 'edgeresnet[openvino]'")
    import onnxruntime_ep_openvino

    def devices() -> list[Any]:
        cpu = ort.OrtHardwareDeviceType.CPU
        return [device for device in ort.get_ep_devices() if device.ep_name == name and device.device.type == cpu]

    if not devices():
        try:
            ort.register_execution_provider_library(name, onnxruntime_ep_openvino.get_library_path())
        except Exception as error:
            # Registering twice is an error too: it was there and has no device.
            if not _is_from_onnxruntime(error) or "already" not in str(error):
                raise ProviderError(f"{asked}, but its plugin does not load: {_reason(error)} ({_describe(ort)})") from error
    if not devices():
        raise ProviderError(
            f"{asked}, but its plugin takes no processor of this machine: it wants one of Intel's, this is {cpu_model()} "
            f"({_describe(ort)}); fix: use --provider cpu"
        )
    return devices()[0]


def _open_whole(create: Callable[[Any], Any], target: Target) -> Opened:
    """Open so that the provider runs every node; else say which it leaves to the CPU, or with ``force`` accept it.

    Args:
        create: Opens the model with ONNX Runtime's session options.
        target: What was asked for.
    """
    name = PROVIDERS[target.provider]
    refused: Exception | None = None
    if not target.force:
        strict = session_options(target.cores)
        strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return _check_provider(create(strict), name)
        except Exception as error:
            if not _is_from_onnxruntime(error):
                raise
            refused = error
    try:
        opened = _check_provider(create(session_options(target.cores)), name)
    except Exception as error:
        if not _is_from_onnxruntime(error):
            raise
        raise ProviderError(f"provider {target.provider!r} was asked for, but it cannot load the model: {_reason(error)}") from error
    if refused is None:
        return opened
    left = [node for node in opened.placement if node.provider != name]
    raise ProviderError(
        f"provider {target.provider!r} was asked for, but {len(left)} of {len(opened.placement)} nodes would run on the CPU: "
        f"{list_operators(left) or _reason(refused)}; fix: choose another precision or --provider cpu, or accept it with --force"
    ) from refused


def _check_provider(session: Any, name: str) -> Opened:
    providers = session.get_providers()
    if name not in providers:
        raise ProviderError(f"provider {name} was asked for, but ONNX Runtime chose {providers[0]} instead")
    return Opened(session, name, _read_placement(session))


def _read_placement(session: Any) -> tuple[PlacedNode, ...]:
    return tuple(
        PlacedNode(part.ep_name, node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


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


def library_origin(text: str) -> str | None:
    """What brings the shared library of NVIDIA's that ``text`` begins with; None if that is unknown."""
    return next((origin for library, origin in _COMES_WITH.items() if text.startswith(library)), None)


def _describe(ort: ModuleType) -> str:
    return f"onnxruntime {ort.__version__} with {', '.join(ort.get_available_providers())}"


def _reason(error: Exception) -> str:
    """What ONNX Runtime said, in one line without its status codes."""
    text = " ".join(str(error).split())
    cuda = _CUDA_ERROR.search(text)
    return cuda.group(0) if cuda else text.split(" : ", 3)[-1][:300]


def _is_from_onnxruntime(error: Exception) -> bool:
    """Whether ONNX Runtime raised it: its exceptions share no base class, and some are plain ``RuntimeError``."""
    own = isinstance(error, EdgeResNetError)
    return not own and (type(error).__module__.startswith("onnxruntime") or isinstance(error, RuntimeError | ValueError))


_OPENERS: Final[dict[str, Callable[[bytes, Target, str], Opened]]] = {
    "cpu": _open_on_cpu,
    "cuda": _open_on_cuda,
    "openvino": _open_on_openvino,
}
