"""Finds the fastest way to run a network on this machine, among those whose answers are close enough."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.subjects import OnnxSubject, collect_answers, generate_images
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.evaluation import SYNTHETIC_NAME, Logits, match_classes, top1
from edgeresnet.images import Pixels
from edgeresnet.machine import available_cores
from edgeresnet.profile import Profile
from edgeresnet.progress import Track, silent
from edgeresnet.providers import ALL, Settings
from edgeresnet.spec import DYNAMIC_PRECISIONS
from edgeresnet.target import PROVIDERS, Target
from edgeresnet.timing import time_calls

# Images of a call, by what is sought: the answer to one image as soon as possible, or many images as fast as possible.
IMAGES_PER_CALL: Final = {"latency": 1, "throughput": 64}
# A round times every candidate that is left, then drops the slower half: those of the first rounds had little time, but the fastest
# is rarely twice as slow by chance. What is within TIE of the fastest stays: rounds that follow are longer and tell them apart.
TIE: Final = 1.05
FINALISTS: Final = 3
FINAL_ROUNDS: Final = 4
FIRST_SLICE_S: Final = 0.25
FINAL_SLICE_S: Final = 2.5


@dataclass(eq=False)
class Candidate:
    """One way to run one file.

    Attributes:
        subject: File and target.
        images_per_call: Images of a timed call.
        agreement: Fraction of images with the reference's class.
        top1: Fraction of images that is right; None without labels.
        refused: Why it was not timed; None if it was.
        calls_ms: Times of calls.
    """

    subject: OnnxSubject
    images_per_call: int
    agreement: float | None = None
    top1: float | None = None
    refused: str | None = None
    calls_ms: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float:
        """Median time of a call."""
        return statistics.median(self.calls_ms)

    @property
    def images_per_s(self) -> float:
        """Images of a call over that time."""
        return 1000 * self.images_per_call / self.p50_ms


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What to look for.

    Attributes:
        objective: A key of ``IMAGES_PER_CALL``.
        min_agreement: Least fraction of images on which a candidate has the reference's class.
        max_drop: Largest loss of top-1 against the reference, in percentage points; None where it does not matter.
        budget_s: Seconds to spend on timing, about.
        exhaustive: Time every candidate to the end instead of dropping the slower ones.
    """

    objective: str = "latency"
    min_agreement: float = 0.99
    max_drop: float | None = None
    budget_s: float = 90.0
    exhaustive: bool = False


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
    ranked: list[Candidate]
    refused: list[Candidate]
    unavailable: dict[str, str]
    seconds: float

    @property
    def profile(self) -> Profile:
        """The winner."""
        best = self.ranked[0]
        return Profile.of(best.subject.path, best.subject.target, images_per_call=best.images_per_call, p50_ms=best.p50_ms)


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

    images_per_call = IMAGES_PER_CALL[goal.objective]
    unavailable = _find_unavailable(providers)
    candidates = [
        Candidate(replace(subject, target=target), images_per_call)
        for subject in subjects
        for provider in providers
        if provider not in unavailable
        for target in list_targets(provider, subject.spec.precision, goal.objective, cores)
    ]
    reference = next((subject for subject in subjects if subject.spec.precision == "fp32"), subjects[0])
    _judge(candidates, reference, goal, images, data, track)
    timed = [candidate for candidate in candidates if candidate.refused is None]
    if not timed:
        reasons = {f"{c.subject.name} on {c.subject.target.provider}: {c.refused}" for c in candidates}
        raise ProviderError(f"nothing is left to choose from: {'; '.join(sorted(reasons) or unavailable.values())}")
    batch = np.resize(images, (images_per_call, *images.shape[1:]))
    return Tuning(
        goal=goal,
        reference=reference.name,
        data=data.name if data is not None else SYNTHETIC_NAME,
        count=len(images),
        ranked=_rank(timed, batch, goal, track),
        refused=[candidate for candidate in candidates if candidate.refused is not None],
        unavailable=unavailable,
        seconds=time.perf_counter() - started,
    )


def list_targets(provider: str, precision: str, objective: str, cores: int) -> list[Target]:
    """Every setting that can make a difference to speed.

    Threads are powers of two and all cores. Streams and micro-batches matter to calls with many images only, and a dynamically
    quantized model takes one image at a time.
    """
    way = ALL[provider]
    is_reduced = way.arithmetic(Settings()) is not None
    if not way.runs_on_cpu:
        sizes: tuple[int | None, ...] = way.micro_batches if objective == "throughput" else (None,)
        arithmetics = (True, False) if is_reduced else (True,)
        return [Target(provider=provider, micro_batch=size, exact=exact) for size in sizes for exact in arithmetics]
    counts = sorted({cores, *(1 << i for i in range(cores.bit_length()) if 1 << i < cores)})
    targets = []
    for threads, exact in product(counts, (True, False) if is_reduced else (True,)):
        target = Target(provider=provider, threads=threads, exact=exact)
        if objective == "latency":
            targets.append(target)
            continue
        streams = sorted({1, threads}) if way.takes_streams else [None]
        batches = (None,) if precision in DYNAMIC_PRECISIONS else way.micro_batches
        targets += [replace(target, streams=count, micro_batch=batch) for count, batch in product(streams, batches)]
    return targets


def _check_together(subjects: Sequence[OnnxSubject]) -> None:
    first = subjects[0]
    for subject in subjects[1:]:
        if (subject.spec.labels, subject.spec.input) != (first.spec.labels, first.spec.input):
            raise ModelFormatError(f"{subject.path}: has other classes or another image size than {first.path}; tune one network at a time")


def _find_unavailable(providers: Sequence[str]) -> dict[str, str]:
    unavailable = {}
    for provider in providers:
        try:
            ALL[provider].start({})
        except ProviderError as error:
            unavailable[provider] = str(error)
    return unavailable


def _judge(
    candidates: list[Candidate], reference: OnnxSubject, goal: Goal, images: Pixels, data: LabelledImages | None, track: Track
) -> None:
    """Compare answers with the reference's, once for each file, provider and arithmetic: the other settings do not change them."""
    expected = collect_answers(reference, images)
    answers: dict[tuple[Path, str, bool], Logits | ProviderError] = {(reference.path, "cpu", True): expected}
    for candidate in track(candidates, "comparing answers"):
        target = candidate.subject.target
        key = (candidate.subject.path, target.provider, target.exact)
        if key not in answers:
            try:
                answers[key] = collect_answers(candidate.subject, images)
            except ProviderError as error:
                answers[key] = error
        found = answers[key]
        if isinstance(found, ProviderError):
            candidate.refused = str(found)
            continue
        candidate.agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        drop = 0.0
        if data is not None:
            candidate.top1 = top1(found, data.labels)
            drop = 100 * (top1(expected, data.labels) - candidate.top1)
        candidate.refused = _object(goal, candidate.agreement, drop)


def _object(goal: Goal, agreement: float, drop: float) -> str | None:
    if agreement < goal.min_agreement:
        return f"agrees on {agreement:.2%} of the images only"
    if goal.max_drop is not None and drop > goal.max_drop:
        return f"loses {drop:.2f} points of top-1"
    return None


def _rank(candidates: list[Candidate], batch: Pixels, goal: Goal, track: Track) -> list[Candidate]:
    """Time candidates in rounds, and drop the slower half after each."""
    deadline = time.perf_counter() + goal.budget_s
    left = list(candidates)
    dropped: list[Candidate] = []
    slice_s = FIRST_SLICE_S
    while len(left) > FINALISTS and not goal.exhaustive:
        for candidate in track(left, f"timing {len(left)} candidates"):
            _time(candidate, batch, slice_s)
        left.sort(key=lambda candidate: candidate.p50_ms)
        keep = max(FINALISTS, len(left) // 2)
        kept = [c for i, c in enumerate(left) if i < keep or c.p50_ms < TIE * left[0].p50_ms]
        dropped = [c for c in left if c not in kept] + dropped
        is_tie = len(kept) == len(left)
        left, slice_s = kept, 2 * slice_s
        if is_tie or time.perf_counter() > deadline:
            break
    for candidate in left:
        candidate.calls_ms.clear()
    for _, candidate in track(list(product(range(FINAL_ROUNDS), left)), f"timing {len(left)} finalists"):
        _time(candidate, batch, FINAL_SLICE_S)
        if time.perf_counter() > deadline and all(c.calls_ms for c in left) and not goal.exhaustive:
            break
    return sorted(left, key=lambda candidate: candidate.p50_ms) + dropped


def _time(candidate: Candidate, batch: Pixels, seconds: float) -> None:
    session = candidate.subject.load()
    try:
        session.logits(batch)
        candidate.calls_ms += time_calls(partial(session.logits, batch), seconds=seconds)
    finally:
        session.close()
