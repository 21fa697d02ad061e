"""A report as one HTML file that needs nothing else: no network, no scripts, no other file."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy import fingerprint_data
from benchmarks.compare import compare_records
from benchmarks.record import Disagreement, MeasuredAccuracy, Record, Result
from benchmarks.remarks import find_warnings
from benchmarks.report.accuracy_plots import plot_classes, plot_corruptions, plot_tradeoff
from benchmarks.report.drawing import page_style
from benchmarks.report.lines import Line, Plot, describe_place, find_latency
from benchmarks.report.plots import plot_layers, plot_rounds, plot_server, plot_sustained, plot_threads, plot_throughput
from benchmarks.report.verdict import Verdict, describe_paired, reach_verdict
from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import DataError
from edgeresnet.extras import needing
from edgeresnet.files import write_text
from edgeresnet.images import Pixels

TEMPLATE: Final = Path(__file__).with_name("template.html.j2")
MOST_IMAGES: Final = 24
# Of more classes than these, a page shows the worst and the best.
MOST_CLASSES: Final = 20
EXTREMES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Side:
    """One record on the page.

    Attributes:
        label: What tells it from the others.
        record: What was measured.
        verdict: What comes out.
        warnings: What a reader should know first.
        lines: Its models as they are drawn.
        plots: By section.
        others: Plots that are folded, by section.
    """

    label: str
    record: Record
    verdict: Verdict
    warnings: list[str]
    lines: list[Line]
    plots: dict[str, list[Plot]]
    others: dict[str, list[Plot]]


def write_html(records: Sequence[Record], path: Path, images: LabelledImages | None = None, *, labels: Sequence[str] = ()) -> None:
    """Write a page about one record, or several side by side; the same records give the same bytes.

    Args:
        records: What was measured.
        path: File to write.
        images: Those that the accuracy was measured on, to show the ones on which models disagree; None to name them by number.
        labels: What the records are called, where there are several.

    Raises:
        DataError: If ``images`` are others than a record's.
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    require_packages()
    import jinja2

    for record in records:
        if images is not None:
            check_images(record, images)
    names = list(labels) or [f"record {i + 1}" for i in range(len(records))]
    colours = number_models(records)
    with page_style():
        sides = [_prepare(f"r{i}", name, record, colours) for i, (name, record) in enumerate(zip(names, records, strict=True))]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    page = template.render(
        sides=sides,
        legend=_legend(sides),
        comparisons=[(side, compare_records(records[0], side.record)) for side in sides[1:]],
        thumbnail=_thumbnails(images),
        describe_paired=describe_paired,
        describe_place=describe_place,
        find_latency=find_latency,
        extremes=find_extremes,
        flatten=flatten,
        most_images=MOST_IMAGES,
        most_classes=MOST_CLASSES,
    )
    write_text(path, page)


def require_packages() -> None:
    """Make sure that a page can be written, before minutes of measuring.

    Raises:
        MissingExtraError: If jinja2 or matplotlib is not installed.
    """
    with needing("report", "the HTML report"):
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401


def check_images(record: Record, images: LabelledImages) -> None:
    """Make sure that images are those that a record's accuracy is of.

    Raises:
        DataError: If they are not, or the record does not tell.
    """
    for result in record.results:
        accuracy = result.accuracy
        if accuracy is None:
            continue
        if accuracy.data_sha256 is None:
            raise DataError(f"the record does not say which images its accuracy is of ({accuracy.data}); fix: leave --data out")
        if accuracy.data_sha256 != fingerprint_data(images):
            raise DataError(
                f"{images.name}, {len(images):,} images: are not those that the record's accuracy is of ({accuracy.data}, "
                f"{accuracy.count:,} images); fix: give --data that was measured on"
            )
        return


def number_models(records: Sequence[Record]) -> dict[str, int]:
    """A number for each name, which decides its colour and marker on the whole page."""
    return {name: i for i, name in enumerate(dict.fromkeys(result.name for record in records for result in record.results))}


def find_extremes(accuracy: MeasuredAccuracy) -> list[tuple[str, float]]:
    """Classes with their accuracy: all of them, or the worst and the best of many."""
    known = [(label, share) for label, share in (accuracy.per_class or {}).items() if share is not None]
    if len(known) <= MOST_CLASSES:
        return known
    ordered = sorted(known, key=lambda item: item[1])
    return ordered[:EXTREMES] + ordered[-EXTREMES:]


def flatten(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as lines of name and text."""
    if isinstance(values, dict):
        return [line for key, value in values.items() for line in flatten(value, f"{prefix} {key}".strip())]
    if isinstance(values, list):
        return [(prefix, ", ".join(map(str, values)) or "none")]
    return [(prefix, "unknown" if values is None else str(values))]


def _prepare(name: str, label: str, record: Record, colours: dict[str, int]) -> Side:
    verdict = reach_verdict(record)
    lines = [Line(result, _shorten(result), colours[result.name]) for result in record.results]
    measured = [line for line in lines if line.result.latency]
    places = sorted({(entry.batch_size, entry.threads) for line in measured for entry in line.result.latency})
    plots: dict[str, list[Plot | None]] = {key: [] for key in ("tradeoff", "rounds", "sweeps", "layers", "loads", "classes")}
    others: list[Plot | None] = []
    if verdict.place is not None:
        place = verdict.place
        plots["tradeoff"] = [plot_tradeoff(f"{name}-tradeoff", measured, place)]
        shown = list(dict.fromkeys([place, max(other for other in places if other[1] == place[1])]))
        plots["rounds"] = [plot_rounds(f"{name}-rounds-{i}", measured, other) for i, other in enumerate(shown)]
        others = [plot_rounds(f"{name}-others-{i}", measured, other) for i, other in enumerate(places) if other not in shown]
        plots["sweeps"] = [
            plot_throughput(f"{name}-throughput", measured, place[1]),
            plot_threads(f"{name}-threads", measured, place[0]),
        ]
        plots["layers"] = [plot_layers(f"{name}-layers{i}", line) for i, line in enumerate(measured)]
    plots["loads"] = [plot_sustained(f"{name}-sustained", lines), plot_server(f"{name}-server", lines)]
    few = [line for line in lines if line.result.accuracy is not None and len(line.result.accuracy.per_class or {}) <= MOST_CLASSES]
    plots["classes"] = [plot_classes(f"{name}-classes", few), plot_corruptions(f"{name}-corruptions", lines)]
    return Side(
        label=label,
        record=record,
        verdict=verdict,
        warnings=find_warnings(record),
        lines=lines,
        plots={key: [plot for plot in found if plot is not None] for key, found in plots.items()},
        others={"rounds": [plot for plot in others if plot is not None]},
    )


def _shorten(result: Result) -> str:
    """A name for titles: files of one network differ in their ends."""
    if result.runtime == "pytorch":
        return "PyTorch original"
    return f"{result.name} (original)" if result.original else result.name


def _legend(sides: Sequence[Side]) -> list[Line]:
    """The models of all records, once each."""
    return list({line.index: line for side in sides for line in side.lines}.values())


def _thumbnails(images: LabelledImages | None) -> Callable[[Disagreement], str | None]:
    """Gives an image on which models disagree as a data URI, or None without images."""

    def show(disagreement: Disagreement) -> str | None:
        return encode_png(images.images[disagreement.index]) if images is not None else None

    return show


def encode_png(pixels: Pixels) -> str:
    """uint8 (height, width, 1 or 3) as a data URI, no larger than 96 pixels."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((96, 96))
    target = io.BytesIO()
    image.save(target, "PNG")
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"
