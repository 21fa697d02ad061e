"""Accuracy of one model in detail, and its agreement with the original."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import wilson_interval
from benchmarks.subjects import OnnxSubject, OriginalSubject, check_same_weights, collect_answers
from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import Logits, Parity, collect_logits, compare_logits, match_classes, top1, top5
from edgeresnet.progress import Track, silent


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
