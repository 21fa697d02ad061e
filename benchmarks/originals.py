"""What models are measured beside: the network that they were made from, or its FP32 form where that is all there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.subjects import OnnxSubject, OriginalSubject, check_same_weights
from edgeresnet.cifar10 import ARCHITECTURE
from edgeresnet.extras import needing
from edgeresnet.target import Target


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        original: A network in PyTorch, an ONNX file, or None where neither is at hand.
        remark: What a reader of the figures should know of that; empty where it is as usual.
    """

    original: OriginalSubject | OnnxSubject | None
    remark: str = ""


def choose_original(
    models: Sequence[OnnxSubject], given: Path | None, network: str | None, target: Target, *, on_gpu: bool = False
) -> Choice:
    """Choose what models of one network are held against.

    It is the file that the user gives: weights, or an ONNX file. Without one it is the bundled weights for models of that network, and
    of others the FP32 model among them.

    Args:
        models: ONNX files, at least one.
        given: What the user says, or None.
        network: Name of the network in PyTorch, where the user has to name it.
        target: Where an ONNX file runs; PyTorch gets as many CPU threads.
        on_gpu: Whether the models run on a GPU: then PyTorch does, too, where it can.

    Raises:
        ModelFormatError: If what is given is not what the models were made from.
        CheckpointError: If the weights cannot be used.
        MissingExtraError: If they need PyTorch or timm, and that is not installed.
    """
    spec = models[0].spec
    device, remark = _choose_device() if on_gpu else ("cpu", "")
    place = partial(OriginalSubject.of, device=device, exact=target.exact)
    if given is not None:
        if given.suffix.lower() == ".onnx":
            original: OnnxSubject | OriginalSubject = OnnxSubject.of(given, target)
            remark = ""
        else:
            original = place(given, target.cores, spec, network)
        check_same_weights(models, original)
        return Choice(original=original, remark=remark)
    if spec.architecture == ARCHITECTURE:
        # Whether the models were made from it, what measures them finds out.
        return Choice(original=place(None, target.cores), remark=remark)
    fp32 = next((model for model in models if model.spec.precision == "fp32"), None)
    if fp32 is None:
        return Choice(
            original=None,
            remark=f"what {models[0].name} was made from is not at hand, so nothing is compared with it; fix: name it with --original",
        )
    check_same_weights(models, fp32)
    return Choice(
        original=fp32, remark=f"{fp32.name} is what the others are compared with; --original names the weights, where there are any"
    )


def _choose_device() -> tuple[str, str]:
    """Where PyTorch runs beside models on a GPU, and what a reader should know of it."""
    with needing("train", "the PyTorch original"):
        import torch
    if torch.cuda.is_available():
        return "cuda", ""
    return "cpu", f"PyTorch {torch.__version__} has no CUDA here, so the original runs on the CPU and no speed-up over it is given"
