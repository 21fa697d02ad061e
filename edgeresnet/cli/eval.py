"""``edgeresnet eval``."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgeresnet.cli.options import (
    EXISTING_FILE,
    checkpoint_option,
    data_option,
    format_option,
    limit_option,
    network_option,
    target_options,
)
from edgeresnet.cli.terminal import note, note_run, printable, progress_bars, show
from edgeresnet.target import Target

if TYPE_CHECKING:
    from benchmarks.accuracy import AccuracyReport
    from benchmarks.subjects import OnnxSubject, OriginalSubject
    from edgeresnet.profile import Profile

# A confusion matrix of more columns fits no terminal; of that many classes so many are shown at either end.
MATRIX_CLASSES: Final = 20
SHOWN: Final = 10

EPILOG = """\b
Examples:
  edgeresnet eval resnet18-int8.onnx --data cifar10
  edgeresnet eval resnet18-fp32.onnx --data cifar10 --limit 1000 --format json
"""


@click.command(epilog=EPILOG)
@click.argument("model", type=EXISTING_FILE, required=False)
@data_option
@limit_option
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True, help="Images per call.")
@target_options
@checkpoint_option
@network_option
@click.option("--no-original", is_flag=True, help="Do not compare with the original; PyTorch is not needed then.")
@format_option("table", "json")
def command(
    model: Path | None,
    data: Path | None,
    limit: int | None,
    batch_size: int,
    target: Target,
    profile: "Profile | None",
    checkpoint: Path | None,
    network: str | None,
    no_original: bool,
    style: str,
) -> None:
    """Measure a model's accuracy on the test split: top-1, top-5, per class, confusion, and agreement with the original."""
    path = profile.model if profile is not None else model
    if path is None or (profile is not None and model is not None):
        raise click.UsageError("give either MODEL or --profile")
    if data is None:
        raise click.UsageError("--data is missing: where are the images?")
    from benchmarks.accuracy import measure_accuracy
    from benchmarks.subjects import OnnxSubject
    from edgeresnet.datasets import read_split

    subject = OnnxSubject.of(path, target)
    session = subject.load()  # what cannot run should say so before the images are read
    note_run(session)
    session.close()
    original = None if no_original else _find_original(subject, checkpoint, network, target)
    with progress_bars() as track:
        test = read_split(data, "test", size=subject.spec.input, limit=limit, track=track)
        report = measure_accuracy(subject, original, test, batch_size=batch_size, track=track)
    if style == "json":
        print(json.dumps(asdict(report), indent=1))
    else:
        _show_tables(report)


def _find_original(
    subject: "OnnxSubject", checkpoint: Path | None, network: str | None, target: Target
) -> "OriginalSubject | OnnxSubject | None":
    """The original where it was asked for or PyTorch is here; a device without PyTorch can still measure accuracy."""
    from benchmarks.originals import choose_original

    if checkpoint is None and find_spec("torch") is None:
        note("note: PyTorch is not installed, so the agreement with the original is not measured")
        return None
    original = choose_original([subject], checkpoint, network, target).original
    if original is None:
        note("note: what the model was made from is not at hand, so the agreement with it is not measured (--original)")
    return original if original != subject else None


def _show_tables(report: "AccuracyReport") -> None:
    from rich.table import Table

    low, high = report.top1_interval95
    parity = report.parity_with_original
    summary = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    summary.add_row("model", f"{report.model} ({report.precision}, {report.provider})")
    summary.add_row("data", f"{report.count:,} images, {report.data}")
    summary.add_row("top-1", f"{report.top1:.2%} (95 % interval {low:.2%} to {high:.2%})")
    if report.top5 is not None:
        summary.add_row("top-5", f"{report.top5:.2%}")
    if parity is not None:
        summary.add_row(
            f"against {printable(str(report.original))}",
            f"{parity.agreement:.2%} agreement, largest logit difference {parity.largest_difference:.2g}, SQNR {parity.sqnr_db:.1f} dB",
        )
    show(summary)
    if len(report.per_class) <= MATRIX_CLASSES:
        _show_matrix(report)
    else:
        _show_extremes(report)


def _show_matrix(report: "AccuracyReport") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    headings = (printable(label)[:5] for label in report.per_class)
    table = Table("true class", "top-1", *headings, box=SIMPLE_HEAD, padding=0, pad_edge=False, caption="columns: predicted class")
    for column in table.columns[1:]:
        column.justify = "right"
    for (label, share), row in zip(report.per_class.items(), report.confusion, strict=True):
        table.add_row(printable(label), f"{share:.1%}" if share is not None else "-", *(str(count) if count else "." for count in row))
    show(table)


def _show_extremes(report: "AccuracyReport") -> None:
    """Of many classes those that are recognised worst and best, and what is most often taken for what."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    labels = list(report.per_class)
    counts = {label: sum(row) for label, row in zip(labels, report.confusion, strict=True)}
    ranked = sorted(((share, label) for label, share in report.per_class.items() if share is not None), key=lambda entry: entry[0])
    for title, entries in (("worst classes", ranked[:SHOWN]), ("best classes", ranked[-SHOWN:][::-1])):
        table = Table(title, "top-1", "images", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for share, label in entries:
            table.add_row(printable(label), f"{share:.1%}", str(counts[label]))
        show(table)
    mistakes = [(count, labels[i], labels[j]) for i, row in enumerate(report.confusion) for j, count in enumerate(row) if count and i != j]
    table = Table("true class", "taken for", "times", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for count, truth, answer in sorted(mistakes, key=lambda entry: -entry[0])[:SHOWN]:
        table.add_row(printable(truth), printable(answer), str(count))
    show(table)
    seen = len(ranked)
    if seen < len(labels):
        note(f"note: {len(labels) - seen} of {len(labels)} classes have no images here")
