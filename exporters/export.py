"""Exports a weights file to the requested precisions, and proves each before anything is written."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ExportError
from edgeresnet.evaluation import (
    SYNTHETIC_NAME,
    Logits,
    Parity,
    check_classes,
    collect_logits,
    compare_logits,
    measure,
    synthetic_images,
)
from edgeresnet.files import replacing
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.spec import PRECISIONS, Accuracy, ImageInput, ModelSpec
from edgeresnet.training.weights import load_weights
from exporters.fp16 import convert_to_fp16
from exporters.fp32 import export_fp32
from exporters.int8.saturation import PROBE_IMAGES, quantize_without_saturation
from exporters.metadata import seal, stamp, tool_versions
from exporters.static.amx import fuse_for_amx
from exporters.static.quantize import quantize_static_int8
from exporters.stock import quantize_stock_int8

# Sums of float32 in another order differ by about 1e-5 on logits near 10.
MAX_FP32_DIFFERENCE: Final = 1e-3
# Of the logits' signal over what the precision adds. FP16 reaches 60 dB on this network, its 11 bits alone would allow 66; 8-bit networks
# of this kind reach 35 to 45 dB, and at 25 dB the noise has a twentieth of the signal's amplitude.
MIN_SQNR_DB: Final = {"fp16": 50.0, "int8": 25.0, "int8-static": 25.0, "int8-stock": 25.0}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A file that was written, and what was measured on it.

    Attributes:
        path: The file.
        spec: Its description, as stamped into it.
        size_bytes: Its size.
        seconds: Time that making and checking it took.
        parity: Its logits against the original's.
        compared_on: Name of the images of that comparison.
        original_accuracy: The original's accuracy on the same images, where the data was given.
    """

    path: Path
    spec: ModelSpec
    size_bytes: int
    seconds: float
    parity: Parity
    compared_on: str
    original_accuracy: Accuracy | None


def export_models(
    checkpoint: Path,
    precisions: Sequence[str],
    output: Path,
    *,
    test: LabelledImages | None = None,
    calibration: Pixels | None = None,
    for_amx: bool = False,
    max_drop: float | None = None,
    track: Track = silent,
) -> list[ExportedModel]:
    """Export, check and write a network in several precisions.

    Every model is run by ONNX Runtime on the CPU and held against the PyTorch original before the first file is written, so
    that after an error the output folder is as it was.

    Args:
        checkpoint: Weights from `edgeresnet train`.
        precisions: Any of ``PRECISIONS``.
        output: Folder of the results, named ``resnet18-PRECISION.onnx``.
        test: Images to compare on; accuracy on them is stamped into the files. Without them, synthetic images are compared.
        calibration: Training images, uint8 (N, height, width, channels), from which ``int8-static`` takes its ranges.
        for_amx: Give ``int8-static`` the form of ``fuse_for_amx``.
        max_drop: Largest loss of top-1 against the original, in percentage points, that is accepted; needs ``test``.
        track: Progress reporter.

    Raises:
        CheckpointError: If the weights cannot be used.
        DataError: If the classes of ``test`` are not the network's.
        ExportError: If an export differs from the original by more than its precision explains, or ``max_drop`` is exceeded.
        ValueError: If ``int8-static`` is asked for without ``calibration``.
    """
    network = load_weights(checkpoint)
    if test is not None:
        check_classes(test, network.spec.labels)
    size = network.spec.input
    images = synthetic_images(size) if test is None else test.images
    expected = collect_logits(network, images, "running the original", track)
    original_accuracy = _measure_accuracy(expected, test)

    fp32 = export_fp32(network.model, size)
    contents: list[bytes] = []
    exports: list[ExportedModel] = []
    for precision in precisions:
        started = time.perf_counter()
        model = _convert(fp32, precision, size, calibration, for_amx=for_amx)
        spec = replace(network.spec, precision=precision, accuracy=None, versions=tool_versions())
        session = Session(stamp(model, spec))
        logits = collect_logits(session, images, f"checking {precision}", track)
        session.close()
        parity = compare_logits(expected, logits)
        spec = replace(spec, accuracy=_measure_accuracy(logits, test))
        _check(precision, parity, spec.accuracy, original_accuracy, max_drop)
        contents.append(seal(model, spec))
        exports.append(
            ExportedModel(
                path=output / f"resnet18-{precision}.onnx",
                spec=spec,
                size_bytes=len(contents[-1]),
                seconds=time.perf_counter() - started,
                parity=parity,
                compared_on=SYNTHETIC_NAME if test is None else test.name,
                original_accuracy=original_accuracy,
            )
        )
    with ExitStack() as files:
        for exported, content in zip(exports, contents, strict=True):
            files.enter_context(replacing(exported.path)).write_bytes(content)
    return exports


def _convert(fp32: onnx.ModelProto, precision: str, size: ImageInput, calibration: Pixels | None, *, for_amx: bool) -> onnx.ModelProto:
    if precision == "fp32":
        return fp32
    if precision == "fp16":
        return convert_to_fp16(fp32)
    if precision == "int8":
        return quantize_without_saturation(fp32, synthetic_images(size, PROBE_IMAGES)).model
    if precision == "int8-static":
        if calibration is None:
            raise ValueError("int8-static needs calibration images")
        portable = quantize_static_int8(fp32, calibration)
        return fuse_for_amx(portable) if for_amx else portable
    if precision == "int8-stock":
        return quantize_stock_int8(fp32)
    raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")


def _measure_accuracy(logits: Logits, test: LabelledImages | None) -> Accuracy | None:
    return measure(logits, test) if test is not None else None


def _check(precision: str, parity: Parity, accuracy: Accuracy | None, original: Accuracy | None, max_drop: float | None) -> None:
    problem = None
    if precision == "fp32" and not parity.largest_difference <= MAX_FP32_DIFFERENCE:
        problem = f"a logit differs from the original's by {parity.largest_difference:.2g}, more than {MAX_FP32_DIFFERENCE}"
    elif precision != "fp32" and not parity.sqnr_db >= MIN_SQNR_DB[precision]:
        problem = f"the logits are {parity.sqnr_db:.1f} dB from the original's, at least {MIN_SQNR_DB[precision]:.0f} dB are needed"
    elif max_drop is not None and accuracy is not None and original is not None:
        drop = 100 * (original.top1 - accuracy.top1)
        if drop > max_drop:
            problem = f"top-1 falls from {original.top1:.2%} to {accuracy.top1:.2%}, by more than {max_drop} points"
    if problem is not None:
        raise ExportError(f"{precision}: {problem}; nothing was written")
