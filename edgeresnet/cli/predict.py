"""``edgeresnet predict``."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option, target_options
from edgeresnet.cli.terminal import note, note_run, printable, progress_bars, show
from edgeresnet.errors import ImageError
from edgeresnet.target import Target

if TYPE_CHECKING:
    from edgeresnet.profile import Profile

EPILOG = """\b
Examples:
  edgeresnet predict cat.jpg
  edgeresnet predict photos/ --top 3 --format jsonl
  cat cat.jpg | edgeresnet predict -
"""


@click.command(epilog=EPILOG)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--model",
    type=EXISTING_FILE,
    help="ONNX file from `edgeresnet export`. [default: the bundled INT8 CIFAR-10 network]",
)
@target_options
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Show this many classes of each image.")
@format_option("table", "json", "jsonl")
def command(images: tuple[str, ...], model: Path | None, target: Target, profile: "Profile | None", top: int, style: str) -> None:
    """Classify images: files, folders (searched recursively), or - for standard input.

    An unreadable image is reported on stderr, the others are classified all the same, and the exit status is 1.
    """
    from edgeresnet.classifier import Classifier

    sources = list(_find(images))
    rows: list[dict[str, Any]] = []
    failed = 0
    if profile is not None and model is not None:
        raise click.UsageError("--model cannot change what --profile sets")
    path, sha256 = (profile.model, profile.model_sha256) if profile else (model, None)
    with Classifier(path, target=target, sha256=sha256) as classifier, progress_bars() as track:
        note_run(classifier.session)
        for name in track(sources, "classifying"):
            try:
                prediction = classifier.predict(sys.stdin.buffer.read() if name == "-" else name)
            except ImageError as error:
                note(f"error: {error}")
                failed += 1
                continue
            best = [{"label": label, "score": round(score, 6)} for label, score in prediction.top(top)]
            row = {"image": name, "label": prediction.label, "score": round(prediction.score, 6), "top": best}
            if style == "jsonl":
                print(json.dumps(row), flush=True)
            rows.append(row)
    if style == "json":
        print(json.dumps(rows, indent=1))
    elif style == "table" and rows:
        _show_table(rows)
    if failed:
        note(f"error: {failed} of {len(sources)} images could not be read")
        raise click.exceptions.Exit(1)


def _find(images: tuple[str, ...]) -> Iterator[str]:
    from edgeresnet.images import SUFFIXES

    for image in images:
        path = Path(image)
        if image == "-" or not path.is_dir():
            yield image
            continue
        files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ImageError(f"{image}: the folder has no images")
        yield from files


def _show_table(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("image", "class", "probability", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for row in rows:
        labels = "\n".join(printable(entry["label"]) for entry in row["top"])
        scores = "\n".join(f"{entry['score']:.2%}" for entry in row["top"])
        table.add_row(printable(row["image"]), labels, scores)
    table.columns[0].overflow = "fold"
    table.columns[2].justify = "right"
    show(table)
