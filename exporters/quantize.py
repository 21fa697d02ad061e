"""Quantizes any CNN in a file, and proves the result before it is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from edgeresnet.race import race
from edgeresnet.spec import ACCEPTABLE_SQNR_DB, Accuracy
from exporters.attempt import Attempt, DoesNotPayError, attempt, attempt_untimed, contestants
from exporters.budget import Budget, Form, Original, Search
from exporters.foreign.inputs import ImageTensor
from exporters.foreign.prepare import prepare
from exporters.int8.form import DynamicForm
from exporters.int8.layertimes import time_fp32_layers
from exporters.int8.quantize import LayerChoice, check_not_quantized
from exporters.probes import CALIBRATION_SEED, PIXEL_RANGES, Probe, generate_probes, load_probes, split_probes
from exporters.processors import PROCESSORS, count_work, find_unpaying, has_vnni, share_in_int8
from exporters.proof import Proof, describe_probes
from exporters.static.form import StaticForm

# The precision that a file of each form has.
FORMS: Final = {"dynamic": DynamicForm.precision, "static": StaticForm.precision}


@dataclass(frozen=True, kw_only=True)
class OtherForm:
    """A form of INT8 that was not written.

    Attributes:
        precision: Its name, a value of ``FORMS``.
        reason: Why it was not.
        sqnr_db: Of the worst unit of its outputs, where it came to that.
        speedup: Over the user's file, likewise.
    """

    precision: str
    reason: str
    sqnr_db: float | None = None
    speedup: float | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """A file that was written, and what was measured on it.

    Attributes:
        path: The file.
        precision: Its form, a value of ``FORMS``.
        size_bytes: Its size.
        original_size_bytes: Size of what it was made from, with the files that kept its tensors.
        layers: What became of each layer with weights, with its own error and time.
        proof: How close its outputs are to those of the user's file.
        calibrated_on: Images that decided the ranges of a static model's activations; empty for a dynamic one.
        others: Forms that were not written, where none was asked for.
        accuracy: Top-1 of a classifier of this project, where labelled images were given.
        processor: One of ``PROCESSORS`` that it was made for without timing it; empty if that is this machine.
        fp32_ms: Median time of a call of the user's file here, with ``threads``; None if it was not timed.
        int8_ms: Of the quantized model, run in turns with it, likewise.
        speedup: Median over the turns of the first over the second, likewise.
        threads: Every core that this process may use.
    """

    path: Path
    precision: str
    size_bytes: int
    original_size_bytes: int
    layers: tuple[LayerChoice, ...]
    proof: Proof
    calibrated_on: str
    others: tuple[OtherForm, ...]
    accuracy: Accuracy | None
    processor: str
    fp32_ms: float | None
    int8_ms: float | None
    speedup: float | None
    threads: int


def quantize_file(
    source: Path,
    target: Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    fixed: Mapping[str, str | float] | None = None,
    form: str | None = None,
    processor: str = "",
    excluded: Sequence[str] = (),
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
        target: The file to write; by default ``default_target``'s.
        size: Height and width of the images, for a model that leaves them open.
        fixed: Value of each input that is not the images.
        form: One of ``FORMS``: ``static`` fixes the ranges of activations beforehand, ``dynamic`` takes them from each call. By default
            the faster of those that can be had: ranges taken from generated images would be proven by generated images alone, so
            the static form is tried where there are real ones and it is known what floats mean.
        processor: One of ``PROCESSORS``, for a file that is to run elsewhere: nothing is timed, what is known of it decides which layers
            stay in FP32, and the result need not be faster here. Of both forms the one with more of the products in INT8 is taken.
        excluded: Layers that stay in FP32, by the name of their weights or of their result.
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
    if processor and processor not in PROCESSORS:
        raise ExportError(f"{processor!r} is none of {', '.join(PROCESSORS)}")
    prepared = prepare(source, size=size, fixed=fixed)
    image = prepared.image_input
    if pixel_range is not None and image.element_type == "uint8":
        raise ExportError(f"{source}: --pixel-range says what floats mean, and the model takes pixels as uint8")
    if form == "static" and not _says_what_pixels_mean(image, pixel_range):
        raise ExportError(
            f"{source}: the static form fixes ranges for one meaning of floats, and no file says what they mean; "
            f"fix: --pixel-range {', '.join(PIXEL_RANGES)}"
        )
    hindrance = _find_hindrance(image, images, pixel_range)
    forms = [form] if form is not None else ["dynamic"] if hindrance else [*FORMS]
    calibration, probes = _choose_images(image, images, pixel_range, calibrate="static" in forms)
    budget = Budget(least_db=least_db, test=test, max_drop=max_drop)
    untried = [OtherForm(precision=FORMS["static"], reason=f"not tried: it needs {hindrance}")] if form is None and hindrance else []
    try:
        check_not_quantized(prepared.model)
        original = Original(prepared, probes, budget, track)
        searches = _find_searches(original, forms, calibration, excluded, processor, track)
        best, others = _make_largest(searches, prepared.model, processor) if processor else _make_fastest(searches, original, track)
    except DoesNotPayError as error:
        raise ExportError("; ".join((f"{source}: {error}", *(f"{other.precision} was {other.reason}" for other in untried)))) from error
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error
    path, timed = target or default_target(source, best.precision), best.race
    write_bytes(path, best.content)
    return QuantizedFile(
        path=path,
        precision=best.precision,
        size_bytes=len(best.content),
        original_size_bytes=len(prepared.source),
        layers=best.layers,
        proof=best.candidate.proof,
        calibrated_on=describe_probes(calibration) if best.precision == FORMS["static"] else "",
        others=(*others, *untried),
        accuracy=best.candidate.accuracy,
        processor=processor,
        fp32_ms=None if timed is None else timed.first_ms,
        int8_ms=None if timed is None else timed.second_ms,
        speedup=None if timed is None else timed.speedup,
        threads=available_cores(),
    )


def default_target(source: Path, precision: str) -> Path:
    """Where a quantized model is written: beside what it was made from, with its precision in the name."""
    return source.with_name(f"{source.stem.removesuffix('-fp32')}-{precision}{source.suffix}")


def _says_what_pixels_mean(image: ImageTensor, pixel_range: str | None) -> bool:
    return image.element_type == "uint8" or pixel_range is not None


def _find_hindrance(image: ImageTensor, folder: Path | None, pixel_range: str | None) -> str:
    """What the static form wants and was not given; empty if it has everything."""
    wanted = [] if folder is not None else ["--images"]
    wanted += [] if _says_what_pixels_mean(image, pixel_range) else ["--pixel-range"]
    return " and ".join(wanted)


def _choose_images(
    image: ImageTensor, folder: Path | None, pixel_range: str | None, *, calibrate: bool
) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
    """What a static form is calibrated on, and what any is proven on."""
    if folder is not None and calibrate:
        return split_probes(image, folder, pixel_range)
    if folder is not None:
        return (), load_probes(image, folder, pixel_range)
    calibrating = generate_probes(image, pixel_range=pixel_range, seed=CALIBRATION_SEED) if calibrate else ()
    return calibrating, generate_probes(image, pixel_range=pixel_range)


def _find_searches(
    original: Original, forms: Sequence[str], calibration: tuple[Probe, ...], excluded: Sequence[str], processor: str, track: Track
) -> dict[str, Callable[[], Search]]:
    """What begins the search of each form."""
    model, image = original.prepared.model, original.prepared.image_input
    calls = [call for probe in calibration for call in probe.calls]
    makers: dict[str, Callable[[Mapping[str, str]], Form]] = {
        "dynamic": lambda left: DynamicForm(model, image, left),
        "static": lambda left: StaticForm(model, calls, left, joins_groups=has_vnni(processor)),
    }
    return {form: partial(Search, original, makers[form], excluded, track) for form in forms}


def _make_fastest(searches: Mapping[str, Callable[[], Search]], original: Original, track: Track) -> tuple[Attempt, list[OtherForm]]:
    """The form that is the fastest here, and what became of the others."""
    model, feeds = original.prepared.model, {original.image: original.probes[0].calls[0]}
    fp32_ms = time_fp32_layers(model, feeds)
    made, refusals = _make_all(searches, lambda _, search: attempt(search, feeds, fp32_ms, track))
    best, *rest = made.values()
    others = []
    for other in rest:
        best, lost = _choose_faster(best, other, feeds, track)
        others.append(lost)
    return best, [*others, *refusals]


def _make_largest(searches: Mapping[str, Callable[[], Search]], model: onnx.ModelProto, processor: str) -> tuple[Attempt, list[OtherForm]]:
    """The form that has more of the products in INT8, the static one if both have as many, and what became of the other."""
    work = count_work(model)
    left = {"dynamic": find_unpaying(work, processor), "static": {}}
    made, refusals = _make_all(searches, lambda form, search: attempt_untimed(search, left[form]))
    shares = {form: share_in_int8(found.candidate.quantized, work) for form, found in made.items()}
    best = max(made, key=lambda form: (shares[form], form == "static"))
    others = [
        _describe_other(found, f"{shares[form]:.0%} of the products in INT8, not {shares[best]:.0%}")
        for form, found in made.items()
        if form != best
    ]
    return made[best], [*others, *refusals]


def _make_all(
    searches: Mapping[str, Callable[[], Search]], make: Callable[[str, Search], Attempt]
) -> tuple[dict[str, Attempt], list[OtherForm]]:
    """Every form that can be made, by name, and those that cannot.

    Raises:
        ExportError: If none can.
    """
    made: dict[str, Attempt] = {}
    refusals: dict[str, ExportError] = {}
    for form, begin in searches.items():
        try:
            made[form] = make(form, begin())
        except ExportError as error:
            refusals[form] = error
    if not made and len(refusals) == 1:
        raise next(iter(refusals.values()))
    if not made:
        raise ExportError("; ".join(f"in the {form} form, {error}" for form, error in refusals.items()))
    return made, [OtherForm(precision=FORMS[form], reason=str(error)) for form, error in refusals.items()]


def _choose_faster(first: Attempt, second: Attempt, feeds: Mapping[str, NDArray[Any]], track: Track) -> tuple[Attempt, OtherForm]:
    """The faster one, and what is said of the other; where it is not certain which that is, the closer one."""
    result = race(*contestants(feeds, first.content, second.content), track)
    if result.lower > 1:
        best, other, reason = second, first, f"slower: {result.speedup:.2f} times the time"
    elif result.upper < 1:
        best, other, reason = first, second, f"slower: {1 / result.speedup:.2f} times the time"
    else:
        further, closer = sorted((first, second), key=lambda made: made.candidate.proof.sqnr_db)
        best, other, reason = closer, further, "not certainly faster, and not as close"
    return best, _describe_other(other, reason)


def _describe_other(other: Attempt, reason: str) -> OtherForm:
    speedup = None if other.race is None else other.race.speedup
    return OtherForm(precision=other.precision, reason=reason, sqnr_db=other.candidate.proof.sqnr_db, speedup=speedup)
