"""Loads ONNX Runtime and tells its exceptions from others. Nothing outside this package and the exporters does."""

import ctypes
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from weakref import WeakSet

from edgeresnet.errors import EdgeResNetError, ProviderError
from edgeresnet.extras import needing

# ONNX Runtime's "fatal": what it warns of means nothing to a user, and its errors arrive as exceptions.
_LOG_FATAL: Final = 4
# Of its allocator, whatever the device.
_NO_ROOM: Final = re.compile(r"Available memory of \d+ is smaller than requested bytes of (\d+)")
# y = Conv(x, x) of one float: a model that every provider takes, so that what fails is the provider. On CUDA it needs cuDNN too.
PROBE: Final = bytes.fromhex(
    "08083a520a0f0a01780a01781201792204436f6e76120570726f62655a1b0a017812160a14080112100a0208010a0208010a0208010a020801621b0a"
    "017912160a14080112100a0208010a0208010a0208010a02080142040a00100d"
)


def refuse_telemetry() -> None:
    """Have ONNX Runtime, which from 1.29 on sends its maker what models it opens, send nothing and leave no identifier on the disk.

    It asks when it is loaded (its Privacy.md). Whoever does want it sets the variable to 0. In a child of a fork its reporter would also
    wait for ever, at the exit, for a thread that stayed behind.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def load_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, and see to it that it reports nothing to anybody.

    Raises:
        MissingExtraError: If it is not installed.
        ProviderError: If it is installed and does not load, or something else of that name is found.
    """
    refuse_telemetry()
    with needing("cpu"):
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise
        except ImportError as error:
            raise ProviderError(
                f"onnxruntime is installed and does not load ({error}); fix: pip install --force-reinstall onnxruntime"
            ) from error
    module: ModuleType = onnxruntime
    if not hasattr(module, "InferenceSession"):
        # What a wheel leaves behind that was removed while another owned the same folder, or a folder of the user's own.
        place = module.__file__ or next(iter(module.__path__), "nowhere")
        raise ProviderError(
            f"onnxruntime is imported from {Path(place)}, where there is no ONNX Runtime; fix: remove or rename that, then "
            "pip install --force-reinstall onnxruntime"
        )
    return module


def session_options(threads: int, profile: Path | None = None) -> Any:
    """ONNX Runtime's options for a session that says nothing and uses ``threads`` threads, and those only while it runs.

    Args:
        threads: Of a run.
        profile: Begin of the name of the file that the time of every node is written to; None for none.
    """
    options = load_onnxruntime().SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    # Threads that spin between runs take the cores from whatever else the process runs, such as streams or another classifier.
    # Within a run they still spin: the latency is the same (4.35 against 4.34 ms, CIFAR ResNet-18 in INT8, two threads).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def survive_forks(session: Any) -> None:
    """Have a child of a fork never free this session: that waits for threads which stayed behind, for ever, at the latest at its exit."""
    _SESSIONS.add(session)


def _keep_all() -> None:
    for session in _SESSIONS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


_SESSIONS: Final[WeakSet[Any]] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)


def run_probe(session: Any) -> None:
    """Run ``PROBE`` once: some libraries are loaded by the first run only."""
    import numpy as np

    session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})


def describe_runtime() -> str:
    """Which ONNX Runtime this is, for a message."""
    ort = load_onnxruntime()
    return f"onnxruntime {ort.__version__} with {', '.join(ort.get_available_providers())}"


def reason_of(error: Exception) -> str:
    """What ONNX Runtime said, in one line without its status codes; in our words where a device's memory is too small."""
    if full := _NO_ROOM.search(str(error)):
        return f"memory has no room for {int(full.group(1)):,} bytes more; fix: a larger gpu_mem_limit if one is set, or smaller batches"
    return " ".join(str(error).split()).split(" : ", 3)[-1][:300]


def is_from_onnxruntime(error: Exception) -> bool:
    """Whether ONNX Runtime raised it: its exceptions share no base class, and some are plain ``RuntimeError``."""
    own = isinstance(error, EdgeResNetError)
    return not own and (type(error).__module__.startswith("onnxruntime") or isinstance(error, RuntimeError | ValueError))
