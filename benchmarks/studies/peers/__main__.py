"""``python -m benchmarks.studies.peers``: sets up, measures, writes the record and prints its table."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from benchmarks.studies.peers.contest import Settings, compete
from benchmarks.studies.peers.record import tabulate
from benchmarks.studies.peers.roster import PEERS
from edgeresnet.errors import EdgeResNetError
from edgeresnet.files import write_text

T = TypeVar("T")


def _tell(steps: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    items = list(steps)
    for i, item in enumerate(items, 1):
        click.echo(f"{description}: {i} of {len(items)}", err=True)
        yield item


@click.command()
@click.option(
    "--peer", "names", multiple=True, type=click.Choice([peer.name for peer in PEERS]), help="Measure this one; repeatable. [default: all]"
)
@click.option("--data", type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", help="Images. [default: generated ones]")
@click.option("--limit", type=click.IntRange(min=1), default=500, show_default=True, help="Images to compare the answers on.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of each.")
@click.option("--rounds", type=click.IntRange(min=3), default=12, show_default=True, help="How often each one's turn comes.")
@click.option("--seconds", type=click.FloatRange(min=0), default=0.6, show_default=True, help="Timed calls of a turn.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the record there.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeresnet-peers",
    show_default=True,
    help="Where environments (18 GB) and converted files are kept.",
)
def command(
    names: tuple[str, ...], data: Path | None, limit: int, threads: int, rounds: int, seconds: float, record: Path | None, cache: Path
) -> None:
    """Measure other runtimes beside this project; prints a Markdown table.

    The first run installs them from PyPI, each into a virtual environment in the cache, and converts the bundled network with the tools of
    each. Answers are compared with PyTorch's.
    """
    peers = [peer for peer in PEERS if not names or peer.name in names]
    settings = Settings(cache=cache.absolute(), data=data, limit=limit, threads=threads, rounds=rounds, seconds=seconds)
    try:
        found = compete(peers, settings, _tell)
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    if record is not None:
        write_text(record, json.dumps(found, indent=1) + "\n")
    click.echo(tabulate(found), nl=False)
    for peer in found["peers"]:
        if peer["doubt"] is not None:
            click.echo(f"warning: {peer['name']} was {peer['doubt']}; measure again on a quiet machine", err=True)


if __name__ == "__main__":
    command()
