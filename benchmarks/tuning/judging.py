"""Which ways answer closely enough to the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.subjects import OnnxSubject, collect_answers
from benchmarks.tuning.space import Goal
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ProviderError
from edgeresnet.evaluation import Logits, top1
from edgeresnet.images import Pixels
from edgeresnet.progress import Track


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A way to run a file, and what its answers are worth.

    Attributes:
        subject: File and target.
        agreement: Fraction of images with the reference's class; None where there is no answer.
        top1: Fraction of images that is right; None without labels.
        refused: Why it is not to be timed; None if it is.
    """

    subject: OnnxSubject
    agreement: float | None = None
    top1: float | None = None
    refused: str | None = None


def judge(
    subjects: Sequence[OnnxSubject], reference: OnnxSubject, goal: Goal, images: Pixels, data: LabelledImages | None, track: Track
) -> list[Judged]:
    """Compare answers with the reference's, once for each file, provider and arithmetic: the other settings do not change them."""
    expected = collect_answers(reference, images)
    answers: dict[tuple[Path, str, bool], Logits | ProviderError] = {(reference.path, "cpu", True): expected}
    judged = []
    for subject in track(subjects, "comparing answers"):
        key = (subject.path, subject.target.provider, subject.target.exact)
        if key not in answers:
            try:
                answers[key] = collect_answers(subject, images)
            except ProviderError as error:
                answers[key] = error
        found = answers[key]
        if isinstance(found, ProviderError):
            judged.append(Judged(subject=subject, refused=str(found)))
            continue
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        right, drop = None, 0.0
        if data is not None:
            right = top1(found, data.labels)
            drop = 100 * (top1(expected, data.labels) - right)
        judged.append(Judged(subject=subject, agreement=agreement, top1=right, refused=_object(goal, agreement, drop)))
    return judged


def _object(goal: Goal, agreement: float, drop: float) -> str | None:
    if agreement < goal.min_agreement:
        return f"agrees on {agreement:.2%} of the images only"
    if goal.max_drop is not None and drop > goal.max_drop:
        return f"loses {drop:.2f} points of top-1"
    return None
