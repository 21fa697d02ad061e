"""From the files of a network to the fastest way to run it here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.subjects import OnnxSubject, generate_images
from benchmarks.tuning.judging import Judged, judge
from benchmarks.tuning.racing import IMAGES_PER_CALL, Raced, race
from benchmarks.tuning.space import Goal, find_ways
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.evaluation import SYNTHETIC_NAME, match_classes
from edgeresnet.machine import available_cores
from edgeresnet.profile import Profile
from edgeresnet.progress import Track, silent
from edgeresnet.target import PROVIDERS, Target


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What came out.

    Attributes:
        goal: What was sought.
        reference: File name of the model whose answers counted.
        data: Name of the images that the answers were compared on.
        count: Number of those.
        ranked: The timed candidates: those that were timed to the end first, the fastest in front.
        refused: The others, with the reason.
        unavailable: Providers that do not start here, with the reason.
        seconds: Time it took.
    """

    goal: Goal
    reference: str
    data: str
    count: int
    ranked: list[Raced]
    refused: list[Judged]
    unavailable: dict[str, str]
    seconds: float

    @property
    def profile(self) -> Profile:
        """The winner."""
        best = self.ranked[0]
        subject = best.judged.subject
        return Profile.of(subject.path, subject.target, images_per_call=best.images_per_call, p50_ms=best.p50_ms)


def tune(
    models: Sequence[Path],
    goal: Goal,
    *,
    providers: Sequence[str] = tuple(PROVIDERS),
    threads: int | None = None,
    data: LabelledImages | None = None,
    track: Track = silent,
) -> Tuning:
    """Measure the models on the providers of this machine.

    The reference is the FP32 model, or the first if there is none, on the CPU.

    Args:
        models: ONNX files of one network in several precisions.
        goal: What to look for.
        providers: Names of ``PROVIDERS`` to try; those that do not start are left out.
        threads: Most CPU threads; the default is every core that this process may use.
        data: Images to compare the answers on, not test images: what is chosen on them is no longer tested by them. Without them,
            synthetic images.
        track: Progress reporter.

    Raises:
        ModelFormatError: If the models do not belong together.
        DataError: If the classes of ``data`` are not the models'.
        ProviderError: If nothing runs, or nothing is close enough to the reference.
    """
    started = time.perf_counter()
    cores = threads or available_cores()
    subjects = [OnnxSubject.of(path, Target(threads=cores)) for path in models]
    _check_together(subjects)
    if data is not None:
        data = match_classes(data, subjects[0].spec.labels)
    if goal.max_drop is not None and data is None:
        raise ValueError("max_drop needs data")
    images = data.images if data is not None else generate_images(subjects[0].spec.input)

    space = find_ways(subjects, providers, goal.objective, cores)
    reference = next((subject for subject in subjects if subject.spec.precision == "fp32"), subjects[0])
    judged = judge(space.subjects, reference, goal, images, data, track)
    close = [each for each in judged if each.refused is None]
    if not close:
        reasons = {f"{each.subject.name} on {each.subject.target.provider}: {each.refused}" for each in judged}
        raise ProviderError(f"nothing is left to choose from: {'; '.join(sorted(reasons) or space.unavailable.values())}")
    batch = np.resize(images, (IMAGES_PER_CALL[goal.objective], *images.shape[1:]))
    return Tuning(
        goal=goal,
        reference=reference.name,
        data=data.name if data is not None else SYNTHETIC_NAME,
        count=len(images),
        ranked=race(close, batch, goal, track),
        refused=[each for each in judged if each.refused is not None],
        unavailable=space.unavailable,
        seconds=time.perf_counter() - started,
    )


def _check_together(subjects: Sequence[OnnxSubject]) -> None:
    first = subjects[0]
    for subject in subjects[1:]:
        if (subject.spec.labels, subject.spec.input) != (first.spec.labels, first.spec.input):
            raise ModelFormatError(f"{subject.path}: has other classes or another image size than {first.path}; tune one network at a time")
