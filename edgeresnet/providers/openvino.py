"""Intel's OpenVINO, through its plugin for ONNX Runtime."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from edgeresnet.errors import ProviderError
from edgeresnet.machine import cpu_model
from edgeresnet.providers.placement import open_whole
from edgeresnet.providers.protocol import Memory, Opened, Provider, Settings
from edgeresnet.providers.runtime import describe_runtime, is_from_onnxruntime, load_onnxruntime, reason_of

_PLUGIN: Final = "onnxruntime_ep_openvino"


class OpenVino:
    """See ``protocol.Provider``."""

    name = "openvino"
    runtime_name = "OpenVINOExecutionProvider"
    extra = "openvino"
    rank = 1
    micro_batch = 32
    micro_batches: tuple[int, ...] = (1, 4, 16, 32)
    options: tuple[Mapping[str, str], ...] = ({},)
    runs_on_cpu = True
    takes_streams = False

    def is_installed(self) -> bool:
        return find_spec(_PLUGIN) is not None

    def start(self, options: Mapping[str, str]) -> None:
        self._load()

    def open(self, content: bytes, settings: Settings, precision: str) -> Opened:
        ort = load_onnxruntime()
        device = self._load()
        properties = {"INFERENCE_NUM_THREADS": str(settings.threads)}
        if settings.exact:
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        chosen = {"load_config": json.dumps({"CPU": properties}), **settings.options}

        def create(options: Any) -> Any:
            options.add_provider_for_devices([device], chosen)
            return ort.InferenceSession(content, options, enable_fallback=0)

        return open_whole(self, create, settings)

    def arithmetic(self, settings: Settings) -> str | None:
        if settings.exact:
            return None
        has_bfloat16 = "BF16" in self._load().ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split()
        return "FP32 layers run in bfloat16 on this processor" if has_bfloat16 else None

    def memory(self, settings: Settings) -> Memory:
        return Memory()

    def missing(self) -> list[str]:
        return []

    def _load(self) -> Any:
        """Load the plugin, and return ONNX Runtime's handle of the CPU as an OpenVINO device."""
        ort = load_onnxruntime()
        asked = "provider 'openvino' was asked for"
        if not self.is_installed():
            raise ProviderError(
                f"{asked}, but its plugin is not installed ({describe_runtime()}); fix: pip install 'edgeresnet[{self.extra}]'"
            )
        import onnxruntime_ep_openvino

        def devices() -> list[Any]:
            cpu = ort.OrtHardwareDeviceType.CPU
            return [device for device in ort.get_ep_devices() if device.ep_name == self.runtime_name and device.device.type == cpu]

        if not devices():
            try:
                ort.register_execution_provider_library(self.runtime_name, onnxruntime_ep_openvino.get_library_path())
            except Exception as error:
                # Registering twice is an error too: it was there and has no device.
                if not is_from_onnxruntime(error) or "already" not in str(error):
                    raise ProviderError(f"{asked}, but its plugin does not load: {reason_of(error)} ({describe_runtime()})") from error
        if not devices():
            raise ProviderError(
                f"{asked}, but its plugin takes no processor of this machine: it wants one of Intel's, this is {cpu_model()} "
                f"({describe_runtime()}); fix: use --provider cpu"
            )
        return devices()[0]


PROVIDER: Final[Provider] = OpenVino()
