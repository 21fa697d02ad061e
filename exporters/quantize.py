"""Quantizes any CNN in a file, and proves the result before it is written."""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.errors import ExportError, ModelFormatError, ModelNotFoundError
from edgeresnet.evaluation import Parity, compare_logits, synthetic_images
from edgeresnet.files import replacing
from edgeresnet.machine import available_cores
from edgeresnet.progress import Track, silent
from edgeresnet.spec import ACCEPTABLE_SQNR_DB, PREFIX, ModelSpec
from edgeresnet.timing import time_calls
from exporters.int8.quantize import LayerChoice
from exporters.int8.saturation import PROBE_IMAGES, quantize_without_saturation
from exporters.metadata import seal, tool_versions
from exporters.sessions import open_session

ROUNDS: Final = 3
# On a busy machine six times half a second mislead now and then: DenseNet-121 was 1.13 times as slow as FP32 once, 1.17 times as fast else.
ATTEMPTS: Final = 3
MIN_CALLS: Final = 5
SECONDS_PER_ROUND: Final = 0.5
MAX_SLOWDOWN: Final = 1.1


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """A file that was written, and what was measured on it.

    Attributes:
        path: The file.
        size_bytes: Its size.
        original_size_bytes: Size of what it was made from.
        layers: What became of each layer with weights.
        parity: Its outputs against the FP32 model's, on generated images.
        fp32_ms: Median time of a call of the FP32 model with one image here, with ``threads``.
        int8_ms: Of the quantized model.
        threads: Every core that this process may use.
    """

    path: Path
    size_bytes: int
    original_size_bytes: int
    layers: tuple[LayerChoice, ...]
    parity: Parity
    fp32_ms: float
    int8_ms: float
    threads: int


def quantize_file(source: Path, target: Path, *, least_db: float = ACCEPTABLE_SQNR_DB, track: Track = silent) -> QuantizedFile:
    """Quantize a CNN in ONNX form to dynamic INT8 and write it, if it is right and fast.

    The model may be any CNN with one input of images of a fixed size; metadata that it has is kept, and brought up to date if it
    is this project's.

    Args:
        source: The model.
        target: The file to write.
        least_db: How close its outputs must be to the model's, in dB.
        track: Progress reporter.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not a valid ONNX model.
        ExportError: If it cannot be quantized, its outputs are further from the original's than ``least_db``, or it is more than
            10 % slower here; nothing is written then.
    """
    model = _load(source)
    probe = _make_probe(model)
    quantized = quantize_without_saturation(model, probe.images)
    content = _keep_metadata(quantized.model)
    fp32, int8 = _measure(model.SerializeToString(), content, probe, track)
    parity = compare_logits(fp32.outputs, int8.outputs)
    if not parity.sqnr_db >= least_db:
        raise ExportError(
            f"{source}: the quantized outputs are {parity.sqnr_db:.1f} dB from the original's, at least {least_db:g} dB are needed; "
            "nothing was written; fix: accept that with --min-db"
        )
    if _is_slow(int8, fp32):
        raise ExportError(f"{source}: INT8 is slower here, {int8.milliseconds:.2f} against {fp32.milliseconds:.2f} ms; nothing was written")
    with replacing(target) as temporary:
        temporary.write_bytes(content)
    return QuantizedFile(
        path=target,
        size_bytes=len(content),
        original_size_bytes=source.stat().st_size,
        layers=quantized.layers,
        parity=parity,
        fp32_ms=fp32.milliseconds,
        int8_ms=int8.milliseconds,
        threads=available_cores(),
    )


@dataclass(frozen=True)
class _Probe:
    """Inputs to run a model on, ``per_call`` at a time."""

    images: NDArray[Any]
    per_call: int

    def calls(self) -> list[NDArray[Any]]:
        return [self.images[start : start + self.per_call] for start in range(0, len(self.images), self.per_call)]


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such model file")
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise ExportError(f"{path}: keeps tensors in other files; fix: save it as one file (onnx.load, then onnx.save)")
        onnx.checker.check_model(model)
    except ExportError:
        raise
    # onnx lets protobuf's DecodeError through, whose class depends on the protobuf implementation.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(f"{path}: not a valid ONNX model ({reason})") from error
    return model


def _make_probe(model: onnx.ModelProto) -> _Probe:
    """Inputs that look like images to the model: pixels for uint8, normalized ones for float32."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    shape = [dimension.dim_value for dimension in kind.shape.dim] if kind is not None else []
    if kind is None or len(shape) != 4 or min(shape[1:]) < 1:
        found = ", ".join(value.name for value in inputs)
        raise ExportError(f"the model must have one input of images of a fixed size, (batch, channels, height, width); it has: {found}")
    count = shape[0] or PROBE_IMAGES
    pixels_last = kind.elem_type == onnx.TensorProto.UINT8 and shape[3] == 3
    channels, height, width = (shape[3], shape[1], shape[2]) if pixels_last else shape[1:]
    pixels = synthetic_images(max(height, width), count)[:, :height, :width, :]
    if pixels_last:
        return _Probe(pixels, shape[0] or 1)
    normalized = (pixels.transpose(0, 3, 1, 2) / 255 - 0.45) / 0.225
    images = normalized[:, np.arange(channels) % 3].astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return _Probe(images, shape[0] or 1)


def _keep_metadata(model: onnx.ModelProto) -> bytes:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if PREFIX + "format_version" not in metadata:
        content: bytes = model.SerializeToString(deterministic=True)
        return content
    spec = ModelSpec.from_metadata(metadata)
    # The accuracy in the file is that of the FP32 model.
    return seal(model, replace(spec, precision="int8", accuracy=None, versions=tool_versions()))


def _measure(fp32: bytes, int8: bytes, probe: _Probe, track: Track) -> "tuple[_Rounds, _Rounds]":
    """First output and speed of both, one live session at a time, in alternating rounds; in more of them before it is called slow."""
    contestants = original, quantized = _Rounds(fp32), _Rounds(int8)
    for _ in range(ATTEMPTS):
        for contestant in track(contestants * ROUNDS, "checking and timing"):
            contestant.run(probe.calls())
        if not _is_slow(quantized, original):
            break
    return contestants


def _is_slow(int8: "_Rounds", fp32: "_Rounds") -> bool:
    return int8.milliseconds > MAX_SLOWDOWN * fp32.milliseconds


class _Rounds:
    """Rounds of one model: what it answered in the last, and how long a call took in all of them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._times: list[float] = []
        self.outputs = np.empty((0, 0), np.float32)

    def run(self, calls: list[NDArray[Any]]) -> None:
        session = open_session(self._content)
        name = session.get_inputs()[0].name
        self.outputs = np.concatenate([session.run(None, {name: call})[0].reshape(len(call), -1) for call in calls])
        self._times += time_calls(lambda: session.run(None, {name: calls[0]}), seconds=SECONDS_PER_ROUND, least=MIN_CALLS)

    @property
    def milliseconds(self) -> float:
        return statistics.median(self._times)
