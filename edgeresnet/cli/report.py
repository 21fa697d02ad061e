"""``edgeresnet report``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import EXISTING_FILE, EXISTING_PATH
from edgeresnet.cli.terminal import note, progress_bars
from edgeresnet.progress import Track

if TYPE_CHECKING:
    from benchmarks.record import Record
    from edgeresnet.datasets import LabelledImages

EPILOG = """\b
Examples:
  edgeresnet report record.json --html report.html
  edgeresnet report record.json --html report.html --data cifar10
  edgeresnet report laptop.json raspberry.json --html both.html
"""


@click.command(epilog=EPILOG)
@click.argument("records", nargs=-1, required=True, type=EXISTING_FILE, metavar="RECORD.json...")
@click.option(
    "--html", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write: one page that needs nothing else."
)
@click.option(
    "--data",
    type=EXISTING_PATH,
    help="Show the images on which models disagree: the data that the accuracy was measured on, as for `bench`.",
)
def command(records: tuple[Path, ...], html: Path, data: Path | None) -> None:
    """Turn benchmark records into a page for the browser, several side by side.

    The page is one file: it loads nothing from the network and runs no scripts.
    """
    from benchmarks.record import Record
    from benchmarks.report.html import write_html

    read = [Record.read(path) for path in records]
    with progress_bars() as track:
        images = _read_images(read[0], data, track) if data is not None else None
    names = [path.stem for path in records]
    labels = names if len(set(names)) == len(names) else [str(path) for path in records]
    write_html(read, html, images, labels=labels)
    note(f"{html}: open it in a browser")


def _read_images(record: "Record", data: Path, track: Track) -> "LabelledImages":
    """The test images that a record's accuracy is of, prepared as they were."""
    from edgeresnet.datasets import read_split
    from edgeresnet.errors import DataError
    from edgeresnet.evaluation import match_classes
    from edgeresnet.spec import ImageInput

    accuracy = next((result.accuracy for result in record.results if result.accuracy is not None), None)
    if accuracy is None or accuracy.top1 is None:
        raise DataError("the record has no accuracy on images with labels; fix: leave --data out")
    described = record.settings.get("input")
    try:
        size = ImageInput(**described) if described is not None else ImageInput.of(32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the record's setting `input` does not say how images were prepared ({error})") from error
    images = read_split(data, "test", size=size, limit=accuracy.count, track=track)
    return match_classes(images, tuple(accuracy.per_class)) if accuracy.per_class else images
