"""Where and how a model is to run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgeresnet.errors import ProviderError
from edgeresnet.machine import available_cores

# The names that users know, and ONNX Runtime's.
PROVIDERS: Final[Mapping[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
AUTO: Final = "auto"
CONVOLUTION_SEARCHES: Final = ("exhaustive", "heuristic", "default")


@dataclass(frozen=True, kw_only=True)
class Target:
    """An execution provider and its settings.

    Attributes:
        provider: ``cpu``, ``cuda``, ``openvino``, or ``auto``: the first of CUDA, OpenVINO and the CPU that takes the whole model.
        threads: CPU threads that a call may use; None is every core that this process may use.
        streams: Parallel runs that a call with many images is spread over on the CPU, which share ``threads``; None is the way that
            measured best for the model's precision.
        micro_batch: Images that one run takes; None is what measured best for provider and precision.
        device_id: Which GPU.
        exact: Multiply FP32 in FP32. Otherwise CUDA uses TF32 (10 bits of mantissa) and OpenVINO bfloat16 (7 bits) where the
            processor has them.
        force: Accept that nodes which the provider does not take run on the CPU.
        gpu_memory_mb: Limit of CUDA's memory arena.
        convolution_search: How cuDNN chooses its algorithms, anew for every batch size: one of ``CONVOLUTION_SEARCHES``.
        cuda_graph: Record the kernels of a batch size once and replay them.

    Raises:
        ProviderError: If there is no such provider.
        ValueError: If a setting makes no sense.
    """

    provider: str = "cpu"
    threads: int | None = None
    streams: int | None = None
    micro_batch: int | None = None
    device_id: int = 0
    exact: bool = False
    force: bool = False
    gpu_memory_mb: int | None = None
    convolution_search: str = CONVOLUTION_SEARCHES[0]
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.provider not in (*PROVIDERS, AUTO):
            raise ProviderError(f"unknown provider {self.provider!r}; choose from {', '.join((*PROVIDERS, AUTO))}")
        for name in ("threads", "streams", "micro_batch", "gpu_memory_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.device_id < 0:
            raise ValueError(f"device_id must not be negative, not {self.device_id}")
        if self.streams is not None and self.streams > self.cores:
            raise ValueError(f"streams must not be more than the {self.cores} threads, not {self.streams}")
        if self.convolution_search not in CONVOLUTION_SEARCHES:
            raise ValueError(f"convolution_search must be one of {', '.join(CONVOLUTION_SEARCHES)}, not {self.convolution_search!r}")

    @property
    def cores(self) -> int:
        """CPU threads that a call may use, as a number."""
        return self.threads or available_cores()
