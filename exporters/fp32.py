"""The FP32 form: the network as PyTorch's exporter writes it, normalization inside; where BatchNorm follows a convolution it is folded."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Final

import onnx
import torch
from onnx_ir.passes import common

from edgeresnet.errors import ExportError
from edgeresnet.spec import INPUT_NAME, LOGITS, ImageInput
from edgeresnet.training.pixels import PixelClassifier
from exporters.strides import skip_needless_strides

# What the exporter of torch 2.9 and later writes without a conversion step.
OPSET: Final = 20
# A protobuf message holds 2 GiB; the graph needs little of that.
MOST_BYTES: Final = 2**31 - 2**24


def export_fp32(model: PixelClassifier, size: int | ImageInput, output: str = LOGITS) -> onnx.ModelProto:
    """Export a network in eval mode.

    Args:
        model: From uint8 (N, H, W, C) to logits or probabilities.
        size: The input; a number is short for square RGB images of that side. The batch stays dynamic.
        output: Name of the output.

    Returns:
        A self-contained, checked model with input ``images``.

    Raises:
        ExportError: If PyTorch's exporter cannot do it, or the result would be too large for one file.
    """
    size_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size_bytes > MOST_BYTES:
        raise ExportError(f"the network has {size_bytes / 1e9:.1f} GB of weights, and an ONNX file in one piece holds 2 GB")
    # A batch of 1 could be specialised to 1.
    example = torch.zeros(2, *ImageInput.of(size).shape, dtype=torch.uint8)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch's exporter does not take the network ({_reason(error)})") from error
    if program is None:
        raise ExportError("PyTorch's exporter returned no program")
    skip_needless_strides(program.model)
    common.RemoveUnusedNodesPass()(program.model)
    exported = program.model_proto
    onnx.checker.check_model(exported, full_check=True)
    return exported


def _reason(error: BaseException) -> str:
    """What lies at the bottom of an exporter's error, whose own words are a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter reports its stages on stdout and through loggers; data alone belongs on stdout."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
