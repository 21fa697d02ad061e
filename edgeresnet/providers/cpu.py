"""ONNX Runtime's own kernels on the CPU, which take every model."""

from collections.abc import Mapping
from typing import Final

from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.providers.placement import read_placement
from edgeresnet.providers.protocol import Memory, Opened, Provider, Settings
from edgeresnet.providers.runtime import PROBE, is_from_onnxruntime, load_onnxruntime, reason_of, run_probe, session_options


class Cpu:
    """See ``protocol.Provider``."""

    name = "cpu"
    runtime_name = "CPUExecutionProvider"
    extra = "cpu"
    rank = 0
    # More images at a time leave the cache: at 32 a CIFAR ResNet-18's activations are 8 MB a layer.
    micro_batch = 32
    micro_batches: tuple[int, ...] = (1, 4, 16, 32)
    options: tuple[Mapping[str, str], ...] = ({},)
    runs_on_cpu = True
    takes_streams = True

    def is_installed(self) -> bool:
        return True

    def start(self, options: Mapping[str, str]) -> None:
        run_probe(self.open(PROBE, Settings(options=options), "fp32").session)

    def open(self, content: bytes, settings: Settings, precision: str) -> Opened:
        if settings.options:
            raise ProviderError(f"provider 'cpu' takes no options, but was given {', '.join(settings.options)}")
        ort = load_onnxruntime()
        try:
            # Without enable_fallback=0 it prints what is wrong with a broken model to stdout, and tries the same again.
            session = ort.InferenceSession(
                content, session_options(settings.threads, settings.profile), providers=[self.runtime_name], enable_fallback=0
            )
        except Exception as error:
            if not is_from_onnxruntime(error):
                raise
            raise ModelFormatError(f"ONNX Runtime cannot load it ({reason_of(error)})") from error
        return Opened(session, session.get_providers()[0], read_placement(session))

    def arithmetic(self, settings: Settings) -> str | None:
        return None

    def memory(self, settings: Settings) -> Memory:
        return Memory()

    def missing(self) -> list[str]:
        return []


PROVIDER: Final[Provider] = Cpu()
