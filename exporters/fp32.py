"""The FP32 form: the network as PyTorch's exporter writes it, normalization inside, BatchNorm folded."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Final

import onnx
import torch

from edgeresnet.errors import ExportError
from edgeresnet.spec import INPUT_NAME, LOGITS, ImageInput
from edgeresnet.training.pixels import PixelClassifier

# What the exporter of torch 2.9 and later writes without a conversion step.
OPSET: Final = 20


def export_fp32(model: PixelClassifier, size: int | ImageInput) -> onnx.ModelProto:
    """Export a network in eval mode.

    Args:
        model: From uint8 (N, H, W, 3) to logits.
        size: The input; a number is short for square RGB images of that side. The batch stays dynamic.

    Returns:
        A self-contained, checked model with input ``images`` and output ``logits``.

    Raises:
        ExportError: If the exporter's result is not of that form.
    """
    # A batch of 1 could be specialised to 1.
    example = torch.zeros(2, *ImageInput.of(size).shape, dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[LOGITS],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise ExportError("PyTorch's exporter returned no program")
    exported = program.model_proto
    onnx.checker.check_model(exported, full_check=True)
    left = [node.name for node in exported.graph.node if node.op_type == "BatchNormalization"]
    if left:
        raise ExportError(f"BatchNorm was not folded into the convolutions: {', '.join(left)}")
    return exported


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
