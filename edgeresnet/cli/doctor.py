"""``edgeresnet doctor``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgeresnet.cli.options import format_option
from edgeresnet.cli.terminal import printable, show
from edgeresnet.target import PROVIDERS

if TYPE_CHECKING:
    from edgeresnet.doctor import Finding

EPILOG = """\b
Examples:
  edgeresnet doctor
  edgeresnet doctor --provider cuda
"""


@click.command(epilog=EPILOG)
@click.option(
    "--provider",
    "providers",
    type=click.Choice(list(PROVIDERS)),
    multiple=True,
    help="This provider has to work; repeatable. [default: those that are installed]",
)
@format_option("table", "json")
def command(providers: tuple[str, ...], style: str) -> None:
    """Examine what this machine can run, and why not: wheels, providers, libraries, processor, cores.

    Exit status 1 if something is broken that is installed or that --provider names.
    """
    from edgeresnet.doctor import BROKEN, examine

    findings = examine(providers)
    healthy = not any(finding.status == BROKEN for finding in findings)
    if style == "json":
        print(json.dumps({"schema": "edgeresnet.doctor/1", "healthy": healthy, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        _show_table(findings)
    if not healthy:
        raise click.exceptions.Exit(1)


def _show_table(findings: list["Finding"]) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "absent": "dim", "broken": "bold red"}
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(printable(finding.found))
        if finding.fix:
            text.append("\nfix:", "bold").append(f" {printable(finding.fix)}")
        table.add_row(Text(finding.status, colours[finding.status]), finding.subject, text)
    show(table)
