"""Quantizes any CNN in a file, and proves the result before it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ExportError
from edgeresnet.files import write_bytes
from edgeresnet.machine import available_cores
from edgeresnet.progress import Track, silent
from edgeresnet.race import RaceResult, estimate_speedup, race
from edgeresnet.spec import ACCEPTABLE_SQNR_DB, Accuracy
from exporters.budget import Budget, Candidate, Form, Search
from exporters.foreign.inputs import ImageTensor
from exporters.foreign.prepare import PreparedModel, prepare
from exporters.int8.form import DynamicForm
from exporters.int8.layertimes import time_fp32_layers
from exporters.int8.quantize import LayerChoice, QuantizedModel, check_not_quantized
from exporters.probes import CALIBRATION_SEED, PIXEL_RANGES, Probe, generate_probes, load_probes, split_probes
from exporters.proof import Proof, describe_probes
from exporters.sessions import open_session, run_session
from exporters.static.form import StaticForm

# Of what a layer takes in FP32; layers that take more in INT8 are tried in FP32. Beside that INT8 layers cost the turning of values to
# rows and back, which belongs to none of them: so layers that gain too little to pay for it are tried too.
PAYING_SHARES: Final = (1.25, 0.85, 0.6)
# By which the whole network must gain from leaving more layers, since that costs size.
WORTH_LEAVING: Final = 1.03
# Of a network with so few layers in INT8 (those that share weights count once), each is tried in FP32 by itself where the race is not won:
# the nodes around products are a large part of its time, and no layer's own time has them.
FEW_LAYERS: Final = 5
# By which the quantized model must win its race, for certain.
LEAST_SPEEDUP: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """A file that was written, and what was measured on it.

    Attributes:
        path: The file.
        size_bytes: Its size.
        original_size_bytes: Size of what it was made from, with the files that kept its tensors.
        layers: What became of each layer with weights, with its own error and time.
        proof: How close its outputs are to those of the user's file.
        calibrated_on: Images that decided the ranges of a static model's activations; empty for a dynamic one.
        accuracy: Top-1 of a classifier of this project, where labelled images were given.
        fp32_ms: Median time of a call of the user's file here, with ``threads``.
        int8_ms: Of the quantized model, run in turns with it.
        speedup: Median over the turns of the first over the second.
        threads: Every core that this process may use.
    """

    path: Path
    size_bytes: int
    original_size_bytes: int
    layers: tuple[LayerChoice, ...]
    proof: Proof
    calibrated_on: str
    accuracy: Accuracy | None
    fp32_ms: float
    int8_ms: float
    speedup: float
    threads: int


def quantize_file(
    source: Path,
    target: Path,
    *,
    size: tuple[int, int] | None = None,
    fixed: Mapping[str, str | float] | None = None,
    static: bool = False,
    images: Path | None = None,
    pixel_range: str | None = None,
    least_db: float = ACCEPTABLE_SQNR_DB,
    test: LabelledImages | None = None,
    max_drop: float | None = None,
    track: Track = silent,
) -> QuantizedFile:
    """Quantize a CNN in ONNX form and write it, if it is right, smaller and at least as fast.

    The model may be any CNN that takes images; metadata that it has is kept, and brought up to date if it is this project's. Layers whose
    INT8 form does not pay on this machine stay in FP32, and so do the most harmful ones until the rest is within the budget.

    Args:
        source: The model.
        target: The file to write.
        size: Height and width of the images, for a model that leaves them open.
        fixed: Value of each input that is not the images.
        static: Fix the ranges of activations beforehand. Else they follow from each call.
        images: Folder of images to prove the result on, in place of generated ones; and, for the static form, to calibrate on others.
        pixel_range: What floats mean to the model, one of ``PIXEL_RANGES``; by default the result is proven in each. The
            static form needs it, as its ranges hold for one meaning.
        least_db: How close every unit of every output must be to the model's, in dB.
        test: Labelled images of a classifier of this project.
        max_drop: Largest loss of top-1 on them, in percentage points, that is accepted.
        track: Progress reporter.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not a valid ONNX model.
        DataError: If the folder has no images.
        ExportError: If it cannot be quantized, its outputs are further from the original's than the budget whatever stays in FP32, or
            the result would be larger or slower; nothing is written then.
    """
    prepared = prepare(source, size=size, fixed=fixed)
    image = prepared.image_input
    if pixel_range is not None and image.element_type == "uint8":
        raise ExportError(f"{source}: --pixel-range says what floats mean, and the model takes pixels as uint8")
    if static and pixel_range is None and image.element_type != "uint8":
        raise ExportError(
            f"{source}: the static form fixes ranges for one meaning of floats, and no file says what they mean; "
            f"fix: --pixel-range {', '.join(PIXEL_RANGES)}"
        )
    calibration, probes = _choose_images(image, images, pixel_range, static=static)
    try:
        result, content = _quantize(prepared, calibration, probes, Budget(least_db=least_db, test=test, max_drop=max_drop), track)
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error
    write_bytes(target, content)
    return replace(result, path=target, calibrated_on=describe_probes(calibration))


def _choose_images(
    image: ImageTensor, folder: Path | None, pixel_range: str | None, *, static: bool
) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
    """What a static form is calibrated on, and what any is proven on."""
    if folder is not None and static:
        return split_probes(image, folder, pixel_range)
    if folder is not None:
        return (), load_probes(image, folder, pixel_range)
    calibrating = generate_probes(image, pixel_range=pixel_range, seed=CALIBRATION_SEED) if static else ()
    return calibrating, generate_probes(image, pixel_range=pixel_range)


def _quantize(
    prepared: PreparedModel, calibration: tuple[Probe, ...], probes: tuple[Probe, ...], budget: Budget, track: Track
) -> tuple[QuantizedFile, bytes]:
    check_not_quantized(prepared.model)

    def make_form(left: Mapping[str, str]) -> Form:
        if calibration:
            return StaticForm(prepared.model, [call for probe in calibration for call in probe.calls], left)
        return DynamicForm(prepared.model, prepared.image_input, left)

    search = Search(prepared, make_form, probes, budget, track)
    feeds = {prepared.image_input.name: probes[0].calls[0]}
    times = _LayerTimes(prepared.model, feeds, search.form)
    candidate = search.find_largest(_leave_what_does_not_pay(search, times, track))
    result = race(*_calls(feeds, prepared.source, candidate.content), track)
    while not result.lower >= LEAST_SPEEDUP and (other := _leave_one(search, candidate, feeds, len(prepared.source), track)) is not None:
        candidate = other
        result = race(*_calls(feeds, prepared.source, candidate.content), track)
    content = search.finish(candidate)
    if len(content) >= len(prepared.source):
        raise ExportError(
            f"the result would be larger: {len(content):,} bytes, the original has {len(prepared.source):,}; nothing was written"
        )
    if not result.lower >= LEAST_SPEEDUP:
        count = sum(layer.quantized for layer in candidate.quantized.layers)
        raise ExportError(
            f"INT8 is slower here, or not certainly faster ({result.lower:.2f} to {result.upper:.2f}x), with {count} layers in it: "
            f"{result.second_ms:.2f} against {result.first_ms:.2f} ms; nothing was written"
        )
    return _report(prepared, candidate, times, search, result, len(content)), content


class _LayerTimes:
    """How long each layer takes in both forms."""

    def __init__(self, model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], form: Form) -> None:
        self.feeds, self._form = feeds, form
        self.fp32 = time_fp32_layers(model, feeds)

    def int8(self, quantized: QuantizedModel) -> dict[str, float]:
        return self._form.time_layers(quantized, self.feeds)

    def find_slow(self, quantized: QuantizedModel, taken: Mapping[str, float], share: float) -> dict[str, str]:
        """Layers that take more than a share of what they take in FP32, each with the reason; none if all do.

        Layers that share their weights stay together: otherwise the file would keep those twice.
        """
        slow: dict[str, str] = {}
        for group in quantized.sharing():
            int8, fp32 = (sum(times.get(name, 0.0) for name in group) for times in (taken, self.fp32))
            if int8 > share * fp32 > 0:
                slow |= dict.fromkeys(group, f"does not pay: {int8:.3g} ms in INT8, {fp32:.3g} in FP32")
        return slow if len(slow) < sum(layer.quantized for layer in quantized.layers) else {}


def _leave_what_does_not_pay(search: Search, times: _LayerTimes, track: Track) -> dict[str, str]:
    """Layers that stay in FP32 because the whole network is then clearly faster, each with the reason."""
    best = everything = search.quantize({})
    taken, left = times.int8(everything), dict[str, str]()
    for share in PAYING_SHARES:
        slow = times.find_slow(everything, taken, share)
        if len(slow) <= len(left):
            continue
        tried = search.quantize(slow)
        gain = estimate_speedup(*_calls(times.feeds, best.model.SerializeToString(), tried.model.SerializeToString()), track)
        if gain > WORTH_LEAVING:
            best, left = tried, slow
    return left


def _leave_one(search: Search, candidate: Candidate, feeds: Mapping[str, NDArray[Any]], size_bytes: int, track: Track) -> Candidate | None:
    """The model with one more layer in FP32, that without which it is fastest and smaller than so many bytes.

    None if it is slower without any of them, or there are many.
    """
    groups = candidate.quantized.sharing()
    if not 1 < len(groups) <= FEW_LAYERS:
        return None
    left = {layer.name: layer.reason for layer in candidate.quantized.layers if not layer.quantized}
    gains = []
    for group in groups:
        content = search.quantize(left | dict.fromkeys(group, "tried in FP32")).model.SerializeToString()
        if len(content) < size_bytes:
            gains.append((estimate_speedup(*_calls(feeds, candidate.content, content), track), group))
    gain, group = max(gains, default=(0.0, []))
    if gain <= 1:
        return None
    other = search.judge(search.quantize(left | dict.fromkeys(group, f"does not pay: the network takes {gain:.2f} times as long with it")))
    return None if search.complaint(other) else other


def _calls(feeds: Mapping[str, NDArray[Any]], first: bytes, second: bytes) -> tuple[Callable[[], object], Callable[[], object]]:
    return partial(run_session, open_session(first), feeds), partial(run_session, open_session(second), feeds)


def _report(
    prepared: PreparedModel, candidate: Candidate, times: _LayerTimes, search: Search, result: RaceResult, size_bytes: int
) -> QuantizedFile:
    errors = search.sensitivity(candidate.quantized).own_errors()
    int8 = times.int8(candidate.quantized)
    layers = tuple(
        replace(layer, sqnr_db=errors.get(layer.name), fp32_ms=times.fp32.get(layer.name), int8_ms=int8.get(layer.name))
        for layer in candidate.quantized.layers
    )
    return QuantizedFile(
        path=prepared.path,
        size_bytes=size_bytes,
        original_size_bytes=len(prepared.source),
        layers=layers,
        proof=candidate.proof,
        calibrated_on="",
        accuracy=candidate.accuracy,
        fp32_ms=result.first_ms,
        int8_ms=result.second_ms,
        speedup=result.speedup,
        threads=available_cores(),
    )
