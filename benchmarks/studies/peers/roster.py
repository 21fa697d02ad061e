"""Who takes part: which forms of which runtime, and what each one's environment is made of."""

from dataclasses import dataclass
from typing import Final

OURS: Final = "edgeresnet"
ORIGINAL: Final = "PyTorch"
OUR_INT8: Final = "edgeresnet INT8"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: Also its folder's.
        requirements: What pip installs, with versions: a record is of these.
        versions: Distributions whose versions a record names.
    """

    name: str
    requirements: tuple[str, ...]
    versions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One form of the network on one runtime.

    Attributes:
        name: As the table has it.
        runtime: Module of ``runtimes``.
        form: What that module calls it.
        environment: Where it runs; ``OURS`` is the one that runs this command.
        converter: Where it is converted.
    """

    name: str
    runtime: str
    form: str
    environment: str
    converter: str

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.runtime}-{self.form}"


# What reads the original's weights.
_ORIGINAL: Final = ("torch==2.14.1", "torchvision==0.29.1", "safetensors==0.8.0", "numpy==2.4.6", "pillow==13.0.0")

ENVIRONMENTS: Final = {
    environment.name: environment
    for environment in (
        # pnnx, which makes ncnn's files, wants PyTorch and no ncnn.
        Environment(name="pytorch", requirements=(*_ORIGINAL, "pnnx==20261020"), versions=("torch", "pnnx")),
        Environment(
            name="onnxruntime",
            requirements=("onnxruntime==1.32.0", "onnx==1.23.2", "sympy==1.14.0", "pillow==13.0.0"),
            versions=("onnxruntime", "onnx"),
        ),
        Environment(name="openvino", requirements=("openvino==2026.4.1", "nncf==3.4.0", "pillow==13.0.0"), versions=("openvino", "nncf")),
        Environment(
            name="litert",
            requirements=(*_ORIGINAL, "ai-edge-litert==2.3.0", "litert-torch==0.10.0", "ai-edge-quantizer==0.10.0"),
            versions=("ai-edge-litert", "litert-torch", "ai-edge-quantizer"),
        ),
        Environment(
            name="executorch",
            requirements=(*_ORIGINAL, "executorch==1.5.1"),
            versions=("executorch", "torch", "torchao"),
        ),
        Environment(name="ncnn", requirements=("ncnn==1.0.20261020", "numpy==2.4.6", "pillow==13.0.0"), versions=("ncnn",)),
    )
}


def _forms(runtime: str, converter: str | None = None, **names: str) -> tuple[Peer, ...]:
    return tuple(
        Peer(name=name, runtime=runtime, form=form, environment=runtime, converter=converter or runtime) for form, name in names.items()
    )


# ncnn's INT8 needs tools that its wheel does not have.
PEERS: Final = (
    *_forms(
        "pytorch", eager=ORIGINAL, compiled="PyTorch compiled", bfloat16="PyTorch bfloat16", bfloat16_compiled="PyTorch bfloat16, compiled"
    ),
    *_forms(OURS, fp32="edgeresnet FP32", int8=OUR_INT8, int8_static="edgeresnet INT8-static"),
    *_forms("onnxruntime", dynamic="ONNX Runtime INT8, dynamic", static="ONNX Runtime INT8, static"),
    *_forms("openvino", fp32="OpenVINO FP32", bfloat16="OpenVINO bfloat16", int8="OpenVINO INT8 (NNCF)"),
    *_forms("litert", fp32="LiteRT FP32", dynamic="LiteRT INT8, dynamic", full="LiteRT INT8, full"),
    *_forms("executorch", fp32="ExecuTorch FP32", int8="ExecuTorch INT8"),
    *_forms("ncnn", "pytorch", fp32="ncnn FP32"),
)
