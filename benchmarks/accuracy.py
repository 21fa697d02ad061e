"""What models answer: accuracy in detail, and how far that is from the original's answers."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.intervals import mcnemar, wilson_interval
from benchmarks.record import Disagreement, MeasuredAccuracy, PairedTest
from benchmarks.subjects import OnnxSubject, OriginalSubject, check_same_weights, collect_answers
from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import (
    SYNTHETIC_NAME,
    Logits,
    Network,
    Parity,
    collect_logits,
    compare_logits,
    match_classes,
    top1,
    top5,
)
from edgeresnet.progress import Track, silent

# A matrix of more classes is larger than all else in a record, and nobody reads it.
MATRIX_CLASSES: Final = 100
# Some 80 bytes each; where all are kept, two records of the same images can be compared image by image.
DISAGREEMENTS_KEPT: Final = 1000


@dataclass(frozen=True, kw_only=True)
class AccuracyReport:
    """What a model answered on a labelled set of images.

    Attributes:
        model: File name.
        precision: Of its weights.
        provider: The execution provider that really ran.
        data: Name of the images.
        count: Number of them.
        top1: Fraction that is right, 0 to 1.
        top5: Fraction whose class is among the five most likely; None where there are no more than five.
        top1_interval95: 95 % confidence interval of ``top1`` (Wilson).
        original: File name of the original, weights or an ONNX file; None without one.
        parity_with_original: Comparison with it, or None.
        per_class: Fraction of each class that is right; None for a class without images.
        confusion: Counts, rows the true class, columns the predicted one, in the order of ``per_class``.
    """

    model: str
    precision: str
    provider: str
    data: str
    count: int
    top1: float
    top5: float | None
    top1_interval95: tuple[float, float]
    original: str | None
    parity_with_original: Parity | None
    per_class: Mapping[str, float | None]
    confusion: list[list[int]]


def measure_accuracy(
    model: OnnxSubject,
    original: OriginalSubject | OnnxSubject | None,
    test: LabelledImages,
    *,
    batch_size: int,
    track: Track = silent,
) -> AccuracyReport:
    """Run a model, and the original if given, over a labelled set.

    Raises:
        DataError: If the classes of the data are not the model's.
        ModelFormatError: If the model was made from other weights than the original.
    """
    test = match_classes(test, model.spec.labels)
    if original is not None:
        check_same_weights([model], original)
    loaded = model.load()
    logits = collect_logits(loaded, test.images, f"running {model.name}", track, batch_size=batch_size)
    provider = loaded.provider
    loaded.close()
    parity = compare_logits(collect_answers(original, test.images, track), logits) if original is not None else None
    confusion = confusion_matrix(logits, test.labels)
    share = top1(logits, test.labels)
    return AccuracyReport(
        model=model.name,
        precision=model.spec.precision,
        provider=provider,
        data=test.name,
        count=len(test),
        top1=share,
        top5=top5(logits, test.labels),
        original=original.name if original is not None else None,
        top1_interval95=wilson_interval(share, len(test)),
        parity_with_original=parity,
        per_class=per_class_accuracy(confusion, model.spec.labels),
        confusion=confusion.tolist(),
    )


def describe_answers(
    logits: Logits, labels: tuple[str, ...], test: LabelledImages | None, original: Logits | None, *, fingerprint: str | None
) -> MeasuredAccuracy:
    """What a record says of the answers to a set of images.

    Args:
        logits: float32 (N, classes).
        labels: Names of the classes.
        test: The images, classes in the order of ``labels``; None where they have no labels.
        original: Logits of the original on the same images.
        fingerprint: Hex SHA-256 of the data.
    """
    parity = compare_logits(original, logits) if original is not None else None
    confusion = confusion_matrix(logits, test.labels) if test is not None else None
    share = top1(logits, test.labels) if test is not None else None
    return MeasuredAccuracy(
        top1=share,
        count=len(logits),
        agreement_with_original=parity.agreement if parity else None,
        data=test.name if test is not None else SYNTHETIC_NAME,
        data_sha256=fingerprint,
        top1_interval95=wilson_interval(share, len(logits)) if share is not None else None,
        top5=top5(logits, test.labels) if test is not None else None,
        per_class=dict(per_class_accuracy(confusion, labels)) if confusion is not None else None,
        confusion=confusion.tolist() if confusion is not None and len(labels) <= MATRIX_CLASSES else None,
        mean_difference=float(np.abs(logits - original).mean()) if original is not None else None,
        largest_difference=parity.largest_difference if parity else None,
        sqnr_db=parity.sqnr_db if parity and math.isfinite(parity.sqnr_db) else None,
        paired=compare_pairs(original, logits, test.labels) if original is not None and test is not None else None,
        disagreements=list_disagreements(original, logits, labels, test) if original is not None else [],
    )


def compare_pairs(original: Logits, logits: Logits, truth: NDArray[np.int64]) -> PairedTest:
    """Is the difference in accuracy of two networks on the same images real?"""
    first, second = original.argmax(1) == truth, logits.argmax(1) == truth
    only_original, only_model = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedTest(only_original_right=only_original, only_model_right=only_model, p_value=mcnemar(only_original, only_model))


def list_disagreements(original: Logits, logits: Logits, labels: tuple[str, ...], test: LabelledImages | None) -> list[Disagreement]:
    """The first images on which two networks have different top-1 classes."""
    first, second = original.argmax(1), logits.argmax(1)
    return [
        Disagreement(
            index=int(i), truth=labels[test.labels[i]] if test is not None else None, original=labels[first[i]], model=labels[second[i]]
        )
        for i in np.flatnonzero(first != second)[:DISAGREEMENTS_KEPT]
    ]


def measure_corrupted(network: Network, images: LabelledImages, track: Track = silent) -> dict[str, float]:
    """Top-1 on corrupted images by kind of corruption, the mean of its strengths: quantization may cost more off the clean set."""
    return {
        name: float(
            np.mean([top1(collect_logits(network, corrupt(images.images, strength), name, track), images.labels) for strength in STRENGTHS])
        )
        for name, corrupt in CORRUPTIONS.items()
    }


def fingerprint_data(test: LabelledImages) -> str:
    """Hex SHA-256 of the pixels and the names of their classes: what two records must share for their accuracies to be comparable."""
    digest = hashlib.sha256(np.ascontiguousarray(test.images).data)
    for label in test.labels:
        digest.update(f"{test.classes[label]}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def confusion_matrix(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are the true class, columns the predicted one."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(confusion: NDArray[np.int64], labels: tuple[str, ...]) -> Mapping[str, float | None]:
    """Share of each class's images that were recognised; None for a class without images."""
    totals = confusion.sum(1)
    return {label: float(confusion[i, i] / totals[i]) if totals[i] else None for i, label in enumerate(labels)}
