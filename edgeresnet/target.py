"""Where and how a model is to run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edgeresnet.errors import ProviderError
from edgeresnet.machine import available_cores
from edgeresnet.providers import ALL, AUTO, Settings

# The names that users know, and ONNX Runtime's.
PROVIDERS: Final[Mapping[str, str]] = {name: provider.runtime_name for name, provider in ALL.items()}
# No machine has as many cores, and the system refuses the threads long before a mistaken million of them.
MOST_THREADS: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Target:
    """An execution provider and its settings.

    Attributes:
        provider: ``cpu``, ``cuda``, ``openvino``, or ``auto``: the first of CUDA, OpenVINO and the CPU that takes the whole model.
        threads: CPU threads that a call may use; None is every core that this process may use.
        streams: Parallel runs that a call with many images is spread over on the CPU, which share ``threads``; None is the way that
            measured best for the model's precision.
        micro_batch: Images that one run takes; None is what measured best for provider and precision.
        exact: Multiply FP32 in FP32. Otherwise CUDA uses TF32 (10 bits of mantissa) and OpenVINO bfloat16 (7 bits) where the
            processor has them.
        force: Accept that nodes which the provider does not take run on the CPU.
        provider_options: ONNX Runtime's own options of the provider, by their names there, such as CUDA's ``device_id``,
            ``gpu_mem_limit`` (bytes), ``cudnn_conv_algo_search`` and ``enable_cuda_graph``.

    Raises:
        ProviderError: If there is no such provider.
        ValueError: If a setting makes no sense.
    """

    provider: str = "cpu"
    threads: int | None = None
    streams: int | None = None
    micro_batch: int | None = None
    exact: bool = False
    force: bool = False
    provider_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.provider not in (*PROVIDERS, AUTO):
            raise ProviderError(f"unknown provider {self.provider!r}; choose from {', '.join((*PROVIDERS, AUTO))}")
        for name in ("threads", "streams", "micro_batch"):
            value: object = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise ValueError(f"threads must be at most {MOST_THREADS:,}, not {self.threads:,}")
        if self.streams is not None and self.streams > self.cores:
            raise ValueError(f"streams must not be more than the {self.cores} threads, not {self.streams}")
        for name, text in self.provider_options.items():
            if not isinstance(text, str):
                raise TypeError(f"provider_options must be texts, not {name}={text!r}")
        if self.provider_options and self.provider == AUTO:
            raise ValueError("provider_options must be of a provider, and 'auto' may take any")

    @property
    def cores(self) -> int:
        """CPU threads that a call may use, as a number."""
        return self.threads or available_cores()

    @property
    def settings(self) -> Settings:
        """What a provider needs to know of this."""
        return Settings(threads=self.cores, exact=self.exact, force=self.force, options=self.provider_options)
