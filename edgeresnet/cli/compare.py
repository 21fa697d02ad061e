"""``edgeresnet compare``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import EXISTING_FILE, format_option
from edgeresnet.cli.terminal import note, show

if TYPE_CHECKING:
    from benchmarks.gates import Gate, Judgement

EPILOG = """\b
Examples:
  edgeresnet compare old.json new.json
  edgeresnet compare main.json branch.json --fail-if "p50>+5%" --fail-if "top1<-0.1"
  edgeresnet compare main.json branch.json --format markdown >> $GITHUB_STEP_SUMMARY

\b
FIGURE of --fail-if:
  p50, p90, p99     percentiles of the latency, at every batch size and number of threads that both records have
  images_per_s      offline throughput
  load              time to load; a record does not say how it scatters: size alone decides
  memory, size      most memory of the process, and the file: size alone decides
  top1, agreement   in percentage points
"""


def _read_threshold(context: click.Context, parameter: click.Parameter, value: str) -> float:
    import re

    number = re.fullmatch(r"(\d+(?:\.\d+)?)%", value)
    if number is None:
        raise click.BadParameter(f"{value!r} is not a percentage such as 5%", context, parameter)
    return float(number[1]) / 100


def _read_gates(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> "list[Gate]":
    if not values:
        return []
    from benchmarks.gates import Gate

    try:
        return [Gate.parse(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command(epilog=EPILOG)
@click.argument("old", type=EXISTING_FILE, metavar="OLD.json")
@click.argument("new", type=EXISTING_FILE, metavar="NEW.json")
@click.option(
    "--threshold",
    default="5%",
    show_default=True,
    metavar="N%",
    callback=_read_threshold,
    help="Smallest change of a time, throughput, memory or size that counts. Of top-1 and agreement it is a tenth of a point.",
)
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    metavar="EXPR",
    callback=_read_gates,
    help="Exit with 1 where a change is significant and beyond this, such as 'p50>+5%' or 'top1<-0.1' (points); repeatable. "
    "Also where a model of OLD could not be measured for NEW, and where nothing could be judged: what checks nothing must not pass.",
)
@click.option("--all", "everything", is_flag=True, help="Show the figures that are the same too.")
@format_option("table", "json", "markdown")
def command(old: Path, new: Path, threshold: float, gates: "list[Gate]", everything: bool, style: str) -> None:
    """Tell what has changed from one benchmark record to another, and whether that is more than chance.

    Models are matched by name, or by precision and runtime where only one has them. A verdict other than "same" means that the 99 %
    interval of the change lies beyond --threshold as a whole: of p90 beyond twice, of p99 beyond four times that. Records of other
    machines, weights or data are not compared, nor figures that a record itself doubts.
    """
    from benchmarks.compare import compare_records
    from benchmarks.gates import judge
    from benchmarks.record import Record
    from benchmarks.report.comparison import build_comparison_view, to_markdown_comparison

    comparison = compare_records(Record.read(old), Record.read(new), threshold)
    judgements = [judge(gate, comparison) for gate in gates]
    if style == "json":
        described = {"old": str(old), "new": str(new), **comparison.describe(), "gates": [asdict(judgement) for judgement in judgements]}
        print(json.dumps(described, indent=1))
    elif style == "markdown":
        print(to_markdown_comparison(comparison, everything=everything), end="")
    else:
        show(build_comparison_view(comparison, everything=everything))
    for judgement in judgements:
        _tell(judgement)
    if not all(judgement.passed for judgement in judgements):
        raise click.exceptions.Exit(1)


def _tell(judgement: "Judgement") -> None:
    for failure in judgement.failures:
        note(f"failed: {judgement.gate}: {failure}")
    if not judgement.checked and not judgement.failures:
        note(f"failed: {judgement.gate}: nothing could be judged")
    for reason in judgement.unchecked:
        note(f"note: {judgement.gate}: not judged: {reason}")
    if judgement.passed:
        note(f"held: {judgement.gate} ({judgement.checked} figure(s))")
