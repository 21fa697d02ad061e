"""What a model card says of a model's answers: accuracy by class, calibration, and accuracy on corrupted images.

``python -m benchmarks.studies.card MODEL.onnx --data DATA``
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import confusion_matrix, per_class_accuracy
from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.environment import describe_environment
from benchmarks.intervals import wilson_interval
from edgeresnet.datasets import LabelledImages, read_split
from edgeresnet.errors import EdgeResNetError
from edgeresnet.evaluation import Logits, collect_logits, match_classes, top1
from edgeresnet.session import Session

BINS: Final = 15


@dataclass(frozen=True, kw_only=True)
class Card:
    """A model on a labelled set.

    Attributes:
        model: File name.
        precision: Of its weights.
        checkpoint_sha256: Of the weights that it was made from.
        data: Name of the images.
        count: Number of them.
        top1: Fraction that is right, 0 to 1.
        top1_interval95: 95 % confidence interval of ``top1`` (Wilson).
        per_class: Fraction of each class that is right.
        calibration_error: Expected calibration error, 0 to 1.
        mean_score: Mean probability of the most likely class.
        corrupted_count: Number of images that were corrupted.
        corrupted_clean: ``top1`` on those as they were.
        corrupted: ``top1`` by kind of corruption, from the mildest to the strongest.
    """

    model: str
    precision: str
    checkpoint_sha256: str
    data: str
    count: int
    top1: float
    top1_interval95: tuple[float, float]
    per_class: Mapping[str, float | None]
    calibration_error: float
    mean_score: float
    corrupted_count: int
    corrupted_clean: float
    corrupted: Mapping[str, list[float]]


def expected_calibration_error(logits: Logits, labels: NDArray[np.int64]) -> float:
    """How far the probability of the most likely class is from the share that is right, averaged over bins of that probability.

    Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, with 15 bins of equal width.
    """
    scores = best_scores(logits)
    right = logits.argmax(1) == labels
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - scores, BINS)
    return float(np.abs(gaps).sum() / len(labels))


def best_scores(logits: Logits) -> NDArray[np.float32]:
    """Probability of the most likely class of each image."""
    scores: NDArray[np.float32] = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    return scores


def write_card(model: Path, test: LabelledImages, corrupted: LabelledImages) -> Card:
    """Run a model on a labelled set, and on each corruption of another.

    Raises:
        DataError: If the classes of the data are not the model's.
    """
    session = Session(model)
    test = match_classes(test, session.spec.labels)
    logits = collect_logits(session, test.images, "clean images")
    share = top1(logits, test.labels)
    results = {
        name: [top1(collect_logits(session, corrupt(corrupted.images, strength), name), corrupted.labels) for strength in STRENGTHS]
        for name, corrupt in CORRUPTIONS.items()
    }
    return Card(
        model=model.name,
        precision=session.spec.precision,
        checkpoint_sha256=session.spec.checkpoint_sha256,
        data=test.name,
        count=len(test),
        top1=share,
        top1_interval95=wilson_interval(share, len(test)),
        per_class=per_class_accuracy(confusion_matrix(logits, test.labels), session.spec.labels),
        calibration_error=expected_calibration_error(logits, test.labels),
        mean_score=float(best_scores(logits).mean()),
        corrupted_count=len(corrupted),
        corrupted_clean=top1(collect_logits(session, corrupted.images, "the same images"), corrupted.labels),
        corrupted=results,
    )


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", required=True, help="Labelled images.")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many images instead of all.")
@click.option("--corrupt", type=click.IntRange(min=1), default=2000, show_default=True, help="Number of images to corrupt.")
def command(model: Path, data: Path, limit: int | None, corrupt: int) -> None:
    """Measure what the model card says of MODEL; prints JSON."""
    try:
        size = Session(model).spec.input
        card = write_card(model, read_split(data, "test", size=size, limit=limit), read_split(data, "test", size=size, limit=corrupt))
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps({"environment": describe_environment(), **asdict(card)}, indent=1))


if __name__ == "__main__":
    command()
