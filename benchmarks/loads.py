"""What a record keeps of loads beyond single calls, and of the layers of a model."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Where a call's time goes, from ONNX Runtime's own profiler.

    Attributes:
        layer: Layer of the network: what the names of the nodes that ONNX Runtime ran for it begin with.
        operators: Kinds of those nodes.
        p50_ms: Median of the sum of their times, batch 1.
        share: Of all layers' time, 0 to 1.
    """

    layer: str
    operators: list[str]
    p50_ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Offline:
    """Throughput where all images are at hand: large batches on all cores, one after the other.

    Attributes:
        batch_size: Images per call.
        images_per_s: Images over the median time of a call.
        interval95: Its 95 % interval over rounds; None with fewer than three.
        doubt: Why it should not be believed; None where nothing speaks against it.
    """

    batch_size: int
    images_per_s: float
    interval95: tuple[float, float] | None
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServerTrial:
    """Images that arrived at random moments (Poisson), at one rate.

    Attributes:
        rate_per_s: Images that arrive in a second, on average.
        p99_ms: 99th percentile of the time from arrival to answer, waiting included.
        samples: Images.
        held: Whether that is within the bound.
    """

    rate_per_s: float
    p99_ms: float
    samples: int
    held: bool


@dataclass(frozen=True, kw_only=True)
class Server:
    """The highest rate of random arrivals that a model serves within a bound (MLPerf inference's server scenario).

    Attributes:
        bound_ms: Bound on the 99th percentile.
        images_per_s: The highest rate that held it; 0 if none did.
        trials: What was tried, in order.
        doubt: Why it should not be believed; None where nothing speaks against it.
    """

    bound_ms: float
    images_per_s: float
    trials: list[ServerTrial]
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Minute:
    """A minute of a model that runs without a pause.

    Attributes:
        p50_ms: Median call.
        samples: Calls.
        temperature_c: At the end of the minute, of the hottest sensor; None where there is none.
        frequency_mhz: At the end of the minute, mean of the cores; None where the system does not tell.
        doubt: Why the minute should not be believed; None where nothing speaks against it.
    """

    p50_ms: float
    samples: int
    temperature_c: float | None
    frequency_mhz: float | None
    doubt: str | None = None
