"""A whole benchmark: models beside their original, latency and accuracy, in one record."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import describe_answers, fingerprint_data, measure_corrupted
from benchmarks.conditions import Conditions
from benchmarks.environment import describe_environment
from benchmarks.intervals import SAMPLES_FOR_P90
from benchmarks.latency import Timings, count_rounds, measure_latency
from benchmarks.record import MeasuredAccuracy, Record, Result
from benchmarks.scenarios import NOTHING_ELSE, Loads, Plan, measure_loads
from benchmarks.subjects import OnnxSubject, OriginalSubject, Subject, check_same_weights, collect_answers, generate_images
from benchmarks.summary import Case, summarize
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import EdgeResNetError, ModelFormatError
from edgeresnet.evaluation import Logits, match_classes
from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.target import Target


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How to measure.

    Attributes:
        target: Where and how the models run; the original runs on as many CPU threads.
        batch_sizes: Images per call.
        threads: Numbers of CPU threads to compare; None for those of ``target``.
        min_time_s: Seconds of timed calls of a model in a case, at least.
        device_only: Time the runs also with input and output already on the device.
        corrupted: Number of test images to corrupt, for the accuracy on those too; 0 for none.
        plan: Loads other than one image or batch after the other.
    """

    target: Target
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int, ...] | None = None
    min_time_s: float = 4.0
    device_only: bool = False
    corrupted: int = 0
    plan: Plan = NOTHING_ELSE

    @property
    def cases(self) -> list[Case]:
        """Every batch size on every number of threads."""
        return [Case(size, threads) for threads in self.threads or (None,) for size in self.batch_sizes]


def run_benchmark(
    models: Sequence[OnnxSubject],
    original: OriginalSubject | OnnxSubject | None,
    settings: BenchSettings,
    *,
    test: LabelledImages | None = None,
    refused: Mapping[Path, str] | None = None,
    track: Track = silent,
) -> Record:
    """Measure models, and the original beside them.

    What cannot be measured is a row with its reason, and ends nothing else. Ctrl-C ends the measuring, once every model was measured at
    least once: the record then has what there is.

    Args:
        models: ONNX files of one network in several precisions.
        original: What they were made from, or the one of them that is closest to that; None to leave it out.
        settings: How to measure.
        test: Images with labels for the accuracy. Without them the agreement is measured on synthetic images.
        refused: Models that are known not to run, by their paths, with the reason: rows without figures.
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

    before = Conditions.now()
    timings = [Timings(error=(refused or {}).get(subject.path)) for subject in subjects]
    running = [(subject, timing) for subject, timing in zip(subjects, timings, strict=True) if timing.error is None]
    interrupted = measure_latency(
        running,
        settings.cases,
        images,
        min_time_s=settings.min_time_s,
        device_only=settings.device_only,
        track=track,
    )
    rows = list(zip(subjects, timings, strict=True))
    loads = [Loads() for _ in rows]
    if not interrupted:
        loads, interrupted = measure_loads(rows, settings.plan, images, min_time_s=settings.min_time_s, track=track)
    after = Conditions.now()
    has_answers = not interrupted and (test is not None or original is not None)
    answers = [_find_answers(*row, images, track) if has_answers else None for row in rows]
    fingerprint = fingerprint_data(test) if test is not None else None
    results = [
        _summarize(
            subject,
            timing,
            timings[0] if original is not None else None,
            settings,
            _describe_accuracy(subject, found, answers[0] if original is not None else None, test, fingerprint, settings, track)
            if found is not None
            else None,
            load,
            is_original=subject is original,
        )
        for (subject, timing), found, load in zip(rows, answers, loads, strict=True)
    ]
    return Record(
        environment={**describe_environment(), "before": asdict(before), "after": asdict(after)},
        settings={**_describe(settings), "input": asdict(subjects[0].spec.input)},
        results=results,
        interrupted=interrupted,
    )


def _find_answers(subject: Subject, timing: Timings, images: Pixels, track: Track) -> Logits | None:
    if timing.error is not None:
        return None
    try:
        return collect_answers(subject, images, track)
    except EdgeResNetError as error:
        timing.error = str(error)
        return None


def _describe_accuracy(
    subject: Subject,
    logits: Logits,
    original: Logits | None,
    test: LabelledImages | None,
    fingerprint: str | None,
    settings: BenchSettings,
    track: Track,
) -> MeasuredAccuracy:
    found = describe_answers(logits, subject.spec.labels, test, original, fingerprint=fingerprint)
    if test is None or not settings.corrupted:
        return found
    some = test.subset(np.arange(min(settings.corrupted, len(test))))
    with closing(subject.load()) as model:
        return replace(found, corrupted=measure_corrupted(model, some, track), corrupted_count=len(some))


def _summarize(
    subject: Subject,
    timing: Timings,
    original: Timings | None,
    settings: BenchSettings,
    accuracy: MeasuredAccuracy | None,
    loads: Loads,
    *,
    is_original: bool,
) -> Result:
    execution = timing.execution
    return Result(
        name=subject.name,
        original=is_original,
        precision=subject.spec.precision,
        runtime=subject.runtime,
        provider=execution.provider if execution else "",
        placement=execution.placement if execution else None,
        arithmetic=execution.arithmetic if execution else None,
        size_bytes=subject.size_bytes,
        load_ms=statistics.median(timing.loads_ms) if timing.loads_ms else None,
        latency=[
            summarize(
                visits,
                case,
                case.threads or settings.target.cores,
                original.visits.get(case) if original is not None and original.is_beside(timing) else None,
            )
            for case, visits in timing.visits.items()
            if visits
        ],
        accuracy=accuracy,
        error=timing.error,
        sha256=subject.sha256,
        checkpoint_sha256=subject.spec.checkpoint_sha256,
        peak_memory_bytes=timing.peak_memory_bytes,
        **vars(loads),
    )


def _describe(settings: BenchSettings) -> dict[str, Any]:
    return {
        **asdict(settings.target),
        "threads": settings.target.cores,
        "thread_counts": list(settings.threads) if settings.threads else None,
        "batch_sizes": list(settings.batch_sizes),
        "min_time_s": settings.min_time_s,
        "min_samples": SAMPLES_FOR_P90,
        "rounds": count_rounds(settings.min_time_s),
        "corrupted": settings.corrupted,
        **asdict(settings.plan),
    }
