"""What a person sees: progress bars and notes on stderr, tables on stdout. Rich is imported when something is shown."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from edgeresnet.progress import Track, length, silent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeresnet.session import Session
    from edgeresnet.spec import Accuracy

T = TypeVar("T")


def printable(text: str) -> str:
    """Text of somebody else's with what a terminal would obey, or could not show, as escapes: a file's name may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def note(text: str) -> None:
    """Tell the user something that is not data."""
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


def note_run(session: "Session") -> None:
    """Tell where and how a model really runs, as far as that is not plainly what was asked for."""
    from edgeresnet.providers import AUTO, list_operators

    for reason in session.passed_over:
        note(f"note: {reason}")
    if session.target.provider == AUTO:
        note(f"note: running on {session.provider}")
    left = [node for node in session.placement if node.provider != session.provider]
    if left:
        note(f"note: {len(left)} of {len(session.placement)} nodes run on the CPU: {list_operators(left)}")
    if session.arithmetic is not None:
        note(f"note: {session.arithmetic}; --exact forbids it")


def show_weights(path: Path, accuracy: "Accuracy | None", data: Path, network: str | None) -> None:
    """Print where trained weights are, how good, and what to do with them next; by the network's name where the user has named it."""
    named = f" --network {network}" if network else ""
    print(f"{path}{f', {accuracy}' if accuracy else ''}\nnext: edgeresnet export {path} --data {data}{named}")


def show(renderable: "RenderableType", file: TextIO | None = None) -> None:
    """Print a table or text to stdout or into a file, at full width where that is no terminal."""
    from rich.console import Console

    # Names of files and classes are no markup: [copy] and :dog: are parts of them.
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    console.print(renderable)


@contextmanager
def progress_bars() -> Iterator[Track]:
    """Yield a reporter that draws one bar for each iteration under way, and removes it when that is done.

    On a terminal only: elsewhere bars are noise in a log.
    """
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def track(steps: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
            task = progress.add_task(description, total=length(steps, total))
            try:
                for step in steps:
                    yield step
                    progress.advance(task)
            finally:
                progress.remove_task(task)

        yield track
