"""Exports a network to the requested precisions, and proves each before anything is written."""

import copy
import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from torch import nn

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ExportError, NetworkError, PreprocessingError
from edgeresnet.evaluation import (
    SYNTHETIC_NAME,
    Logits,
    Parity,
    collect_logits,
    compare_logits,
    match_classes,
    measure,
    synthetic_images,
)
from edgeresnet.files import replacing
from edgeresnet.images import Pixels
from edgeresnet.preprocessing import Changes, Preprocessing
from edgeresnet.progress import Track, silent
from edgeresnet.session import Session
from edgeresnet.spec import ACCEPTABLE_SQNR_DB, DEFAULT_PRECISIONS, PRECISIONS, Accuracy, ImageInput, ModelSpec
from edgeresnet.training.networks import file_stem
from edgeresnet.training.pixels import PixelClassifier, try_network
from edgeresnet.training.weights import AS_IT_IS, TrainedNetwork, load_weights, number_labels
from exporters.fp16 import convert_to_fp16
from exporters.fp32 import export_fp32
from exporters.int8.saturation import PROBE_IMAGES, quantize_without_saturation
from exporters.metadata import seal, stamp, tool_versions
from exporters.onnxnetwork import OnnxNetwork
from exporters.static.amx import fuse_for_amx
from exporters.static.classifier import quantize_static_int8
from exporters.stock import quantize_stock_int8

# Of the largest logit. Sums of float32 in another order differ by about 1e-5 on logits near 10.
MAX_FP32_DIFFERENCE: Final = 1e-4
# Of the logits' signal over what the precision adds. The 11 bits of FP16 would allow 66 dB; a ResNet-18 keeps 57 to 60 of them, a
# MobileNetV2 with random weights, which makes every error larger, 34.
MIN_SQNR_DB: Final = {"fp16": 30.0, **dict.fromkeys(("int8", "int8-static", "int8-stock"), ACCEPTABLE_SQNR_DB)}


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
    network: str | None = None,
    labels: tuple[str, ...] | None = None,
    changes: Changes = AS_IT_IS,
    **options: Any,
) -> list[ExportedModel]:
    """Export a weights file, or make other precisions of an FP32 ONNX file; see ``load_network`` and ``export_network``."""
    return export_network(load_network(checkpoint, network, labels=labels, changes=changes), precisions, output, **options)


def load_network(
    source: Path, network: str | None = None, *, labels: tuple[str, ...] | None = None, changes: Changes = AS_IT_IS
) -> TrainedNetwork | OnnxNetwork:
    """Read a network from weights (see ``load_weights``), or from an FP32 ONNX file of this project, which says all of itself.

    Raises:
        CheckpointError: If weights cannot be used.
        NetworkError: If the network cannot be built.
        ModelFormatError: If it is an ONNX file and not an FP32 one of this project.
        PreprocessingError: If something is said of an ONNX file that it says itself.
    """
    if source.suffix.lower() != ".onnx":
        return load_weights(source, network, labels=labels, changes=changes)
    if network is not None or labels is not None or changes != AS_IT_IS:
        raise PreprocessingError(f"{source}: an ONNX file of this project says itself what network it is, its labels and its preprocessing")
    return OnnxNetwork.read(source)


def export_module(
    module: nn.Module,
    preprocessing: Preprocessing,
    output: Path,
    *,
    name: str,
    labels: Sequence[str] | None = None,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    **options: Any,
) -> list[ExportedModel]:
    """Export any classifier that is at hand as a module.

    Args:
        module: From normalized float32 (N, C, H, W) to logits or probabilities (N, classes). It stays as it is.
        preprocessing: From an image to what it takes.
        output: Folder of the results, named ``NAME-PRECISION.onnx``.
        name: Of the network.
        labels: Names of the classes in the order of the outputs; without them they are numbered.
        precisions: Any of ``PRECISIONS``.
        options: As for ``export_network``.

    Raises:
        NetworkError: If it takes no images of that size, is no classifier, or has another number of classes than ``labels``.
        ExportError: As ``export_network`` does.
    """
    network = copy.deepcopy(module).cpu().float()
    classes, answers = try_network(network, preprocessing, name)
    names = tuple(labels) if labels is not None else number_labels(classes)
    if len(names) != classes:
        raise NetworkError(f"{name} tells {classes} classes apart, and there are {len(names)} labels")
    spec = ModelSpec(
        labels=names,
        **vars(preprocessing),
        output=answers,
        architecture=name,
        precision="fp32",
        checkpoint_sha256=_hash_state(network),
        versions=tool_versions(),
    )
    trained = TrainedNetwork(model=PixelClassifier(network, spec.mean, spec.std).eval(), spec=spec, size_bytes=0)
    return export_network(trained, precisions, output, **options)


def export_network(
    network: TrainedNetwork | OnnxNetwork,
    precisions: Sequence[str],
    output: Path,
    *,
    test: LabelledImages | None = None,
    calibration: Pixels | None = None,
    for_amx: bool = False,
    max_drop: float | None = None,
    min_db: float | None = None,
    track: Track = silent,
) -> list[ExportedModel]:
    """Export, check and write a network in several precisions.

    Every model is run by ONNX Runtime on the CPU and held against the original before the first file is written, so
    that after an error the output folder is as it was.

    Args:
        network: The original.
        precisions: Any of ``PRECISIONS``.
        output: Folder of the results, named ``NETWORK-PRECISION.onnx``.
        test: Images to compare on; accuracy on them is stamped into the files. Without them, synthetic images are compared.
        calibration: Training images, uint8 (N, height, width, channels), from which ``int8-static`` takes its ranges.
        for_amx: Give ``int8-static`` the form of ``fuse_for_amx``.
        max_drop: Largest loss of top-1 against the original, in percentage points, that is accepted; needs ``test``.
        min_db: Least SQNR that is accepted below FP32, in place of ``MIN_SQNR_DB``.
        track: Progress reporter.

    Raises:
        DataError: If the classes of ``test`` are not the network's.
        ExportError: If a precision cannot be made, differs from the original by more than it explains, or loses more than ``max_drop``;
            says which of them and which hold.
        ValueError: If ``int8-static`` is asked for without ``calibration``.
    """
    if test is not None:
        test = match_classes(test, network.spec.labels)
    images = synthetic_images(network.spec.input) if test is None else test.images
    expected = collect_logits(network, images, "running the original", track)
    original = _Original(
        spec=network.spec,
        images=images,
        logits=expected,
        test=test,
        accuracy=_measure_accuracy(expected, test),
    )
    fp32 = network.fp32 if isinstance(network, OnnxNetwork) else export_fp32(network.model, network.spec.input, network.spec.output)
    limits = _Limits(max_drop=max_drop, min_db=min_db)
    contents: list[bytes] = []
    exports: list[ExportedModel] = []
    failures: list[str] = []
    for precision in precisions:
        started = time.perf_counter()
        try:
            model = _convert(fp32, precision, network.spec.input, calibration, for_amx=for_amx)
            content, spec, parity = _prove(model, precision, original, limits, track)
        except ExportError as error:
            failures.append(f"{precision}: {error}")
            continue
        contents.append(content)
        exports.append(
            ExportedModel(
                path=output / f"{file_stem(spec.architecture)}-{precision}.onnx",
                spec=spec,
                size_bytes=len(content),
                seconds=time.perf_counter() - started,
                parity=parity,
                compared_on=SYNTHETIC_NAME if test is None else test.name,
                original_accuracy=original.accuracy,
            )
        )
    if failures:
        hold = " ".join(f"--precision {exported.spec.precision}" for exported in exports)
        raise ExportError(f"{'; '.join(failures)}; nothing was written" + (f"; what holds can be had with {hold}" if hold else ""))
    with ExitStack() as files:
        for exported, content in zip(exports, contents, strict=True):
            files.enter_context(replacing(exported.path)).write_bytes(content)
    return exports


@dataclass(frozen=True, kw_only=True, eq=False)
class _Original:
    """What the models are held against: answers to images, and accuracy where the images have labels."""

    spec: ModelSpec
    images: Pixels
    logits: Logits
    test: LabelledImages | None
    accuracy: Accuracy | None


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """How far from the original a model may be."""

    max_drop: float | None
    min_db: float | None

    def least_db(self, precision: str) -> float:
        """Of a precision below FP32."""
        return MIN_SQNR_DB[precision] if self.min_db is None else self.min_db


def _prove(model: onnx.ModelProto, precision: str, original: _Original, limits: _Limits, track: Track) -> tuple[bytes, ModelSpec, Parity]:
    """Run a model as its users will, and give the file with all that is known of it."""
    spec = replace(original.spec, precision=precision, accuracy=None, versions=tool_versions())
    session = Session(stamp(model, spec))
    logits = collect_logits(session, original.images, f"checking {precision}", track)
    session.close()
    parity = compare_logits(original.logits, logits)
    spec = replace(spec, accuracy=_measure_accuracy(logits, original.test))
    _check(parity, spec, original, limits)
    return seal(model, spec), spec, parity


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


def _check(parity: Parity, spec: ModelSpec, original: _Original, limits: _Limits) -> None:
    precision = spec.precision
    largest = float(np.abs(original.logits).max())
    if precision == "fp32" and not parity.largest_difference <= MAX_FP32_DIFFERENCE * largest:
        raise ExportError(
            f"a logit differs from the original's by {parity.largest_difference:.2g}, more than {MAX_FP32_DIFFERENCE} of the largest, "
            f"{largest:.3g}"
        )
    if precision != "fp32" and not parity.sqnr_db >= limits.least_db(precision):
        raise ExportError(
            f"the logits are {parity.sqnr_db:.1f} dB from the original's, at least {limits.least_db(precision):g} dB are needed "
            "(or accepted with --min-db)"
        )
    if limits.max_drop is not None and spec.accuracy is not None and original.accuracy is not None:
        drop = 100 * (original.accuracy.top1 - spec.accuracy.top1)
        if drop > limits.max_drop:
            raise ExportError(
                f"top-1 falls from {original.accuracy.top1:.2%} to {spec.accuracy.top1:.2%}, by more than {limits.max_drop} points"
            )


def _hash_state(network: nn.Module) -> str:
    """SHA-256 of a network's tensors, under their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
