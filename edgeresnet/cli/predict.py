"""``edgeresnet predict``."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option, target_options
from edgeresnet.cli.rows import STYLES, open_rows
from edgeresnet.cli.terminal import note, note_run, printable, progress_bars
from edgeresnet.errors import ImageError
from edgeresnet.target import Target

if TYPE_CHECKING:
    from edgeresnet.bulk import Shard
    from edgeresnet.profile import Profile

EPILOG = """\b
Examples:
  edgeresnet predict cat.jpg
  edgeresnet predict photos/ more.zip --top 3 --format csv --output classes.csv
  edgeresnet predict photos/ --resume classes.jsonl
  edgeresnet predict photos/ --shard 3/16 --format jsonl
  cat cat.jpg | edgeresnet predict -
"""


def _read_shard(context: click.Context, parameter: click.Parameter, value: str | None) -> "Shard":
    from edgeresnet.bulk import Shard

    try:
        return Shard() if value is None else Shard.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command(epilog=EPILOG)
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--list", "listed", type=EXISTING_FILE, help="Classify what this file names as well, one path a line.")
@click.option(
    "--model",
    type=EXISTING_FILE,
    help="ONNX file from `edgeresnet export`. [default: the bundled INT8 CIFAR-10 network]",
)
@target_options
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Show this many classes of each image.")
@format_option(*STYLES)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file, whole or not at all, instead of to stdout."
)
@click.option(
    "--resume",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add JSON lines to this file as they come, and leave out the images that it has already.",
)
@click.option("--shard", metavar="I/N", callback=_read_shard, help="Classify one of N shares, which the names of the images decide.")
def command(
    images: tuple[str, ...],
    listed: Path | None,
    model: Path | None,
    target: Target,
    profile: "Profile | None",
    top: int,
    style: str,
    output: Path | None,
    resume: Path | None,
    shard: "Shard",
) -> None:
    """Classify images: files, folders (searched recursively), archives, or - for standard input.

    An unreadable image is reported on stderr, the others are classified all the same, and the exit status is 1. JSON lines and CSV are
    written as they come.
    """
    from edgeresnet.bulk import check_not_empty, count_sources, find_sources, read_done, read_list
    from edgeresnet.classifier import Classifier

    if not images and listed is None:
        raise click.UsageError("Missing argument '[IMAGE]...' or --list")
    if profile is not None and model is not None:
        raise click.UsageError("--model cannot change what --profile sets")
    if resume is not None and (output is not None or style not in ("table", "jsonl")):
        raise click.UsageError("--resume adds JSON lines to its file: leave --output and other formats out")
    places = [*images, *(read_list(listed) if listed is not None else [])]
    if not places:
        raise ImageError(f"{listed}: the list names no image")
    check_not_empty(images)
    done = read_done(resume) if resume is not None else set()
    names: deque[str] = deque()
    count = failed = 0

    def fail(line: str) -> None:
        nonlocal failed
        failed += 1
        note(printable(f"error: {line}"))

    def fail_place(line: str) -> None:
        nonlocal count
        count += 1
        fail(line)

    def find() -> Iterator[str | bytes]:
        for source in find_sources(places, shard, done, report=lambda line: note(printable(f"note: {line}")), fail=fail_place):
            names.append(source.name)
            yield source.image

    path, sha256 = (profile.model, profile.model_sha256) if profile else (model, None)
    with (
        Classifier(path, target=target, sha256=sha256) as classifier,
        open_rows(style, top, output, resume) as rows,
        progress_bars() as track,
    ):
        note_run(classifier.session)
        for outcome in track(classifier.predict_stream(find()), "classifying", count_sources(places, shard, done)):
            name = names.popleft()
            count += 1
            if isinstance(outcome, ImageError):
                fail(str(outcome) if name in str(outcome) else f"{name}: {outcome}")
            else:
                rows.add(name, outcome)
        rows.finish()
    if done:
        note(f"{len(done):,} images were done already, {count - failed:,} were added")
    if failed:
        note(f"error: {failed:,} of {count:,} images could not be read")
        raise click.exceptions.Exit(1)
