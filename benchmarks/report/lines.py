"""Models as a page shows them."""

from dataclasses import dataclass

from benchmarks.record import Latency, Result
from benchmarks.report.drawing import MARKERS, SERIES


@dataclass(frozen=True)
class Plot:
    """A drawing and what it shows.

    Attributes:
        svg: The element.
        caption: Below it.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Line:
    """A model as it is drawn: the same colour and marker in every plot of a page.

    Attributes:
        result: The model.
        label: Short name.
        index: Of colour and marker.
    """

    result: Result
    label: str
    index: int

    @property
    def colour(self) -> str:
        return SERIES[self.index % len(SERIES)]

    @property
    def marker(self) -> str:
        return MARKERS[self.index % len(MARKERS)]


def find_latency(result: Result, place: tuple[int, int]) -> Latency | None:
    """The entry of a batch size and number of threads."""
    return next((entry for entry in result.latency if (entry.batch_size, entry.threads) == place), None)


def describe_place(place: tuple[int, int]) -> str:
    """Batch size and threads in words."""
    return f"batch {place[0]}, {describe_threads(place[1])}"


def shorten(text: str, most: int = 20) -> str:
    """The end of a long name, which is what tells it apart."""
    return text if len(text) <= most else f"…{text[1 - most :]}"


def describe_threads(count: int) -> str:
    """Number of threads in words."""
    return f"{count} thread{'s' if count != 1 else ''}"
