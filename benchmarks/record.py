"""The result of a benchmark as a versioned JSON document."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

SCHEMA: Final = "edgeresnet.bench/1"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of calls with one batch size.

    Attributes:
        batch_size: Images per call.
        threads: CPU threads that a call could use.
        p50_ms: Median.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile; None with fewer than 662 samples, which it needs to be within 95 % confidence.
        mean_ms: Mean.
        std_ms: Standard deviation.
        samples: Number of timed calls.
        images_per_s: Batch size over the median.
        speedup_vs_original: Median of the original over this median, at the same batch size; None without an original.
        device_p50_ms: Median of the run alone, input and output already on the device; None where it was not measured.
        samples_ms: Every timed call, in order.
    """

    batch_size: int
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    std_ms: float
    samples: int
    images_per_s: float
    speedup_vs_original: float | None
    device_p50_ms: float | None
    samples_ms: list[float]


@dataclass(frozen=True, kw_only=True)
class MeasuredAccuracy:
    """Answers on a set of images.

    Attributes:
        top1: Fraction that is right, 0 to 1; None on images without labels.
        count: Number of images.
        agreement_with_original: Fraction with the original's top-1 class; None without an original.
        data: Name of the images.
    """

    top1: float | None
    count: int
    agreement_with_original: float | None
    data: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model.

    Attributes:
        name: File name.
        precision: Of its weights.
        runtime: ``onnxruntime`` or ``pytorch``.
        provider: The execution provider that really ran, read back from the session.
        placement: Number of nodes on each provider; None for the original.
        arithmetic: In what FP32 products were computed, where that was not FP32.
        size_bytes: Size of the file.
        load_ms: Median time from file to ready model.
        latency: One entry for each batch size.
        accuracy: None if it was not measured.
        original: Whether the others are compared with it: the network in PyTorch, or an ONNX file where that is not at hand.
    """

    name: str
    precision: str
    runtime: str
    provider: str
    placement: dict[str, int] | None
    arithmetic: str | None
    size_bytes: int
    load_ms: float
    latency: list[Latency]
    accuracy: MeasuredAccuracy | None
    original: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole benchmark: where, how, and what came out."""

    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]

    def to_json(self) -> str:
        """The record as a JSON document that begins with its schema."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)
