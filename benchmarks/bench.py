"""A whole benchmark: models beside their original, latency and accuracy, in one record."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.intervals import SAMPLES_FOR_P90
from benchmarks.latency import ROUNDS, Timings, measure_latency, summarize
from benchmarks.record import MeasuredAccuracy, Record, Result
from benchmarks.subjects import OnnxSubject, OriginalSubject, Subject, check_same_weights, collect_answers, generate_images
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ModelFormatError
from edgeresnet.evaluation import SYNTHETIC_NAME, Logits, match_classes, top1
from edgeresnet.progress import Track, silent
from edgeresnet.target import Target


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How to measure.

    Attributes:
        target: Where and how the models run; the original runs on as many CPU threads.
        batch_sizes: Images per call.
        min_time_s: Seconds of timed calls of a model at a batch size, at least.
        device_only: Time the runs also with input and output already on the device.
    """

    target: Target
    batch_sizes: tuple[int, ...] = (1,)
    min_time_s: float = 4.0
    device_only: bool = False


def run_benchmark(
    models: Sequence[OnnxSubject],
    original: OriginalSubject | OnnxSubject | None,
    settings: BenchSettings,
    *,
    test: LabelledImages | None = None,
    track: Track = silent,
) -> Record:
    """Measure models, and the original beside them.

    Args:
        models: ONNX files of one network in several precisions.
        original: What they were made from, or the one of them that is closest to that; None to leave it out.
        settings: How to measure.
        test: Images with labels for the accuracy. Without them the agreement is measured on synthetic images.
        track: Progress reporter.

    Raises:
        ModelFormatError: If the models are of other weights than the original, or take images in another way than each other.
        DataError: If the classes of ``test`` are not the models'.
    """
    if original is not None:
        check_same_weights(models, original)
    others = [model for model in models if not (isinstance(original, OnnxSubject) and model.path.samefile(original.path))]
    subjects: list[Subject] = [*([original] if original is not None else []), *others]
    inputs = {subject.spec.input for subject in subjects}
    if len(inputs) > 1:
        described = "; ".join(sorted(map(str, inputs)))
        raise ModelFormatError(f"the models take images in different ways ({described}); measure them one by one")
    if test is not None:
        test = match_classes(test, subjects[0].spec.labels)
        for subject in subjects:
            match_classes(test, subject.spec.labels)
    images = generate_images(inputs.pop()) if test is None else test.images

    timings = measure_latency(
        subjects, settings.batch_sizes, images[:256], min_time_s=settings.min_time_s, device_only=settings.device_only, track=track
    )
    logits = [collect_answers(subject, images, track) for subject in subjects] if test is not None or original is not None else None
    results = [
        _summarize(subject, timing, settings, timings[0] if original is not None else None, accuracy, is_original=subject is original)
        for subject, timing, accuracy in zip(subjects, timings, _accuracies(logits, len(subjects), original is not None, test), strict=True)
    ]
    return Record(environment=describe_environment(), settings=_describe(settings), results=results)


def _accuracies(logits: list[Logits] | None, count: int, has_original: bool, test: LabelledImages | None) -> list[MeasuredAccuracy | None]:
    if logits is None:
        return [None] * count
    reference = logits[0].argmax(1) if has_original else None
    return [
        MeasuredAccuracy(
            top1=top1(answers, test.labels) if test is not None else None,
            count=len(answers),
            agreement_with_original=float((answers.argmax(1) == reference).mean()) if reference is not None else None,
            data=SYNTHETIC_NAME if test is None else test.name,
        )
        for answers in logits
    ]


def _summarize(
    subject: Subject,
    timing: Timings,
    settings: BenchSettings,
    original: Timings | None,
    accuracy: MeasuredAccuracy | None,
    *,
    is_original: bool,
) -> Result:
    return Result(
        name=subject.name,
        original=is_original,
        precision=subject.spec.precision,
        runtime=subject.runtime,
        **asdict(timing.execution),
        size_bytes=subject.size_bytes,
        load_ms=statistics.median(timing.loads_ms),
        latency=[
            summarize(
                timing.calls_ms[size],
                size,
                settings.target.cores,
                statistics.median(original.calls_ms[size]) if original is not None else None,
                timing.device_ms[size],
            )
            for size in settings.batch_sizes
        ],
        accuracy=accuracy,
    )


def _describe(settings: BenchSettings) -> dict[str, Any]:
    return {
        **asdict(settings.target),
        "threads": settings.target.cores,
        "batch_sizes": list(settings.batch_sizes),
        "min_time_s": settings.min_time_s,
        "min_samples": SAMPLES_FOR_P90,
        "rounds": ROUNDS,
    }
