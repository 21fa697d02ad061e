"""The result of a benchmark as a versioned JSON document."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.loads import LayerTime, Minute, Offline, Server
from edgeresnet.errors import DataError
from edgeresnet.extras import needing

SCHEMA: Final = "edgeresnet.bench/1"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One visit to a model in turn with the others: rounds drift together, the calls of one are not independent.

    Attributes:
        samples: Timed calls; they follow those of the rounds before in ``Latency.samples_ms``.
        started_s: When the first of them began, in seconds from the beginning of the benchmark.
        cores_used: CPU time of the model's process over wall time.
        waited: Share of the time in which its threads could run that they waited for a core, 0 to 1; None where the system does not tell.
        others: Cores that other processes kept busy meanwhile; None where the system does not tell.
        stolen: Cores that the machine's host took away meanwhile; None where the system does not tell.
        doubt: Why the round is not believed; None where it is.
    """

    samples: int
    started_s: float
    cores_used: float
    waited: float | None
    others: float | None
    stolen: float | None
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of calls with one batch size and one number of threads.

    The figures are those of the rounds that are believed, or of all of them where too few are; then ``doubt`` says so.

    Attributes:
        batch_size: Images per call.
        threads: CPU threads that a call could use.
        p50_ms: Median.
        p50_interval95: 95 % interval of the median over resampled rounds; None with fewer than three rounds.
        p90_ms: 90th percentile; None with fewer than 64 samples.
        p99_ms: 99th percentile; None with fewer than 662 samples, which it needs to be within 95 % confidence.
        mean_ms: Mean.
        std_ms: Standard deviation.
        samples: Number of timed calls that the figures are of.
        images_per_s: Batch size over the median.
        speedup_vs_original: Median of the original over this median, at the same batch size and threads; None without an original, or
            where the two cannot be compared, which ``doubt`` explains.
        speedup_interval95: Its 95 % interval over rounds, resampled together for both.
        device_p50_ms: Median of the run alone, input and output already on the device; None where it was not measured.
        doubt: Why the figures should not be believed; None where nothing speaks against them.
        warmup_calls: Calls before the timed ones, all rounds together.
        rounds: The visits, those that are not believed too.
        samples_ms: Every timed call of every round, in order.
    """

    batch_size: int
    threads: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    std_ms: float
    samples: int
    images_per_s: float
    speedup_vs_original: float | None
    device_p50_ms: float | None
    samples_ms: list[float]
    p50_interval95: tuple[float, float] | None = None
    speedup_interval95: tuple[float, float] | None = None
    doubt: str | None = None
    warmup_calls: int = 0
    rounds: list[Round] = field(default_factory=list)

    @property
    def believed_rounds(self) -> dict[int, list[float]]:
        """Times of the calls of each round that the figures are of, by the round's number."""
        return split_rounds(self.samples_ms, self.rounds, only_believed=self.doubt is None)


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """McNemar's exact test: is the difference in accuracy between a model and its original more than chance?

    Attributes:
        only_original_right: Images that the original alone answers rightly.
        only_model_right: Images that the model alone answers rightly.
        p_value: Probability of so uneven a split, or a more uneven one, if both were equally good (McNemar, 1947; exact binomial form).
    """

    only_original_right: int
    only_model_right: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image on which a model and its original answer differently.

    Attributes:
        index: Place among the images of the data, from 0.
        truth: Its class; None on images without labels.
        original: The original's class.
        model: The model's class.
    """

    index: int
    truth: str | None
    original: str
    model: str


@dataclass(frozen=True, kw_only=True)
class MeasuredAccuracy:
    """Answers on a set of images.

    Attributes:
        top1: Fraction that is right, 0 to 1; None on images without labels.
        count: Number of images.
        agreement_with_original: Fraction with the original's top-1 class; None without an original.
        data: Name of the images.
        data_sha256: Hex SHA-256 of pixels and labels, so that accuracies on different images are not compared.
        top1_interval95: 95 % confidence interval of ``top1`` (Wilson).
        top5: Fraction whose class is among the five most likely; None where there are no more than five, or no labels.
        per_class: Fraction of each class that is right, in the order of the model's classes; None for a class without images.
        confusion: Counts, rows the true class, columns the predicted one, in the same order; None of more than 100 classes.
        mean_difference: Mean absolute difference of a logit from the original's.
        largest_difference: Largest absolute difference of any logit.
        sqnr_db: Power of the original's logits over that of the difference, in dB; None where they are equal, or not numbers.
        paired: Whether the difference in accuracy is real.
        disagreements: The first images on which the two differ, as far as they were kept.
        corrupted: Fraction that is right on corrupted images, by kind of corruption, the mean of its strengths; None where it was not
            measured.
        corrupted_count: Number of images that were corrupted.
    """

    top1: float | None
    count: int
    agreement_with_original: float | None
    data: str
    data_sha256: str | None = None
    top1_interval95: tuple[float, float] | None = None
    top5: float | None = None
    per_class: dict[str, float | None] | None = None
    confusion: list[list[int]] | None = None
    mean_difference: float | None = None
    largest_difference: float | None = None
    sqnr_db: float | None = None
    paired: PairedTest | None = None
    disagreements: list[Disagreement] = field(default_factory=list)
    corrupted: dict[str, float] | None = None
    corrupted_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model.

    Attributes:
        name: File name.
        precision: Of its weights.
        runtime: ``onnxruntime`` or ``pytorch``.
        provider: The execution provider that really ran, read back from the session; empty where the model did not load.
        placement: Number of nodes on each provider; None for the original.
        arithmetic: In what FP32 products were computed, where that was not FP32.
        size_bytes: Size of the file.
        load_ms: Median time from file to ready model; None where it did not load.
        latency: One entry for each batch size and number of threads.
        accuracy: None if it was not measured.
        original: Whether the others are compared with it: the network in PyTorch, or an ONNX file where that is not at hand.
        error: Why it could not be measured; None if it was.
        sha256: Hex SHA-256 of the file.
        checkpoint_sha256: Hex SHA-256 of what it was made from.
        peak_memory_bytes: Most memory that its process had at a time, the runtime included.
        layers: Where the time of a call goes, the slowest layer first; None if it was not measured.
        offline: Throughput; None if it was not measured.
        server: Highest rate of random arrivals; None if it was not measured.
        sustained: Minute after minute of running without a pause; None if it was not measured.
    """

    name: str
    precision: str
    runtime: str
    provider: str
    placement: dict[str, int] | None
    arithmetic: str | None
    size_bytes: int
    load_ms: float | None
    latency: list[Latency]
    accuracy: MeasuredAccuracy | None
    original: bool = False
    error: str | None = None
    sha256: str | None = None
    checkpoint_sha256: str | None = None
    peak_memory_bytes: int | None = None
    layers: list[LayerTime] | None = None
    offline: Offline | None = None
    server: Server | None = None
    sustained: list[Minute] | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A whole benchmark: where, how, and what came out.

    Attributes:
        environment: Machine and software; ``before`` and ``after`` hold the machine's load, clocks and temperature at those moments.
        settings: How it was measured.
        results: One for each model, those that could not be measured too.
        interrupted: Whether it was stopped before the end; what stands here was measured.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]
    interrupted: bool = False

    def to_json(self) -> str:
        """The record as a JSON document that begins with its schema."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @property
    def original(self) -> Result | None:
        """What the others are compared with, if anything is."""
        return next((result for result in self.results if result.original), None)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record, of this release or of an earlier one.

        Raises:
            DataError: If it is not a record, or lacks something that a record has, which is named.
            MissingExtraError: If the package that validates is not installed.
        """
        with needing("report", "reading a record"):
            import msgspec
        try:
            document = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is not a benchmark record (not JSON: {error})") from error
        schema = document.pop("schema", None) if isinstance(document, dict) else None
        if schema != SCHEMA:
            raise DataError(f"{path}: is not a benchmark record (its schema is {schema!r}, not {SCHEMA!r}); fix: edgeresnet bench --output")
        try:
            record = msgspec.convert(document, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise DataError(f"{path}: is not a whole benchmark record ({error})") from error
        if record.original is None:  # before any other model could be the original, records did not say that PyTorch's is
            results = [replace(result, original=result.runtime == "pytorch") for result in record.results]
            return replace(record, results=results)
        return record


def split_rounds(samples_ms: list[float], rounds: list[Round], *, only_believed: bool) -> dict[int, list[float]]:
    """Times of the calls of each round, by the round's number."""
    parts: dict[int, list[float]] = {}
    start = 0
    for number, visit in enumerate(rounds):
        if visit.doubt is None or not only_believed:
            parts[number] = samples_ms[start : start + visit.samples]
        start += visit.samples
    return parts
