"""What is sought, and every way to run a network here that can make a difference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.subjects import OnnxSubject
from edgeresnet.errors import ProviderError
from edgeresnet.providers import ALL, Settings
from edgeresnet.spec import DYNAMIC_PRECISIONS
from edgeresnet.target import Target


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What to look for.

    Attributes:
        objective: A key of ``racing.IMAGES_PER_CALL``.
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
class Space:
    """What can be tried.

    Attributes:
        subjects: Every file with every target.
        unavailable: Providers that do not start here, with the reason.
    """

    subjects: list[OnnxSubject]
    unavailable: dict[str, str]


def find_ways(subjects: Sequence[OnnxSubject], providers: Sequence[str], objective: str, cores: int) -> Space:
    """Cross the files with the targets of those providers that start here."""
    unavailable = _find_unavailable(providers)
    ways = [
        replace(subject, target=target)
        for subject in subjects
        for provider in providers
        if provider not in unavailable
        for target in list_targets(provider, subject.spec.precision, objective, cores)
    ]
    return Space(subjects=ways, unavailable=unavailable)


def list_targets(provider: str, precision: str, objective: str, cores: int) -> list[Target]:
    """Every setting that can make a difference to speed.

    Threads are powers of two and all cores. Streams and micro-batches matter to calls with many images only, and a dynamically
    quantized model takes one image at a time.
    """
    way = ALL[provider]
    is_reduced = way.arithmetic(Settings()) is not None
    if not way.runs_on_cpu:
        arithmetics = (True, False) if is_reduced else (True,)
        if objective == "throughput":
            return [Target(provider=provider, micro_batch=size, exact=exact) for size, exact in product(way.micro_batches, arithmetics)]
        return [Target(provider=provider, exact=exact, provider_options=options) for exact, options in product(arithmetics, way.options)]
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


def _find_unavailable(providers: Sequence[str]) -> dict[str, str]:
    unavailable = {}
    for provider in providers:
        try:
            ALL[provider].start({})
        except ProviderError as error:
            unavailable[provider] = str(error)
    return unavailable
