"""Predictions as a table, as JSON, as JSON lines or as CSV: the last two as they come."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from edgeresnet.cli.terminal import printable, show
from edgeresnet.files import replacing

if TYPE_CHECKING:
    from edgeresnet.classifier import Prediction

STYLES: Final = ("table", "json", "jsonl", "csv")


class Rows(Protocol):
    """Takes predictions, one after the other."""

    def add(self, name: str, prediction: "Prediction") -> None: ...

    def finish(self) -> None:
        """Write what has to wait for the last one."""


@contextmanager
def open_rows(style: str, top: int, output: Path | None, grown: Path | None) -> Iterator[Rows]:
    """Yield what writes predictions in a style.

    Args:
        style: One of ``STYLES``.
        top: Classes of each image.
        output: File that is written whole or not at all; None for stdout.
        grown: File of JSON lines that lines are added to as they come, in place of ``output``.
    """
    if grown is not None:
        grown.parent.mkdir(parents=True, exist_ok=True)
        with grown.open("a", encoding="utf-8") as file:
            yield _Lines(file, top)
    elif output is not None:
        with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            yield _write(style, top, file)
    else:
        yield _write(style, top, sys.stdout)


def _write(style: str, top: int, file: TextIO) -> Rows:
    forms: dict[str, Callable[[TextIO, int], Rows]] = {"jsonl": _Lines, "csv": _Csv, "json": _Json, "table": _Table}
    return forms[style](file, top)


def _row(name: str, prediction: "Prediction", top: int) -> dict[str, Any]:
    best = [{"label": label, "score": round(score, 6)} for label, score in prediction.top(top)]
    return {"image": name, "label": prediction.label, "score": round(prediction.score, 6), "top": best}


class _Lines:
    def __init__(self, file: TextIO, top: int) -> None:
        self._file, self._top = file, top

    def add(self, name: str, prediction: "Prediction") -> None:
        self._file.write(json.dumps(_row(name, prediction, self._top)) + "\n")
        self._file.flush()

    def finish(self) -> None:
        pass


class _Csv:
    """A line an image: its name, then label and score of each class."""

    def __init__(self, file: TextIO, top: int) -> None:
        self._writer, self._top = csv.writer(file, lineterminator="\n"), top
        further = (f"{column}_{i}" for i in range(2, top + 1) for column in ("label", "score"))
        self._writer.writerow(["image", "label", "score", *further])

    def add(self, name: str, prediction: "Prediction") -> None:
        best = _row(name, prediction, self._top)["top"]
        self._writer.writerow([name, *(entry[key] for entry in best for key in ("label", "score"))])

    def finish(self) -> None:
        pass


class _Json:
    def __init__(self, file: TextIO, top: int) -> None:
        self._file, self._top = file, top
        self._rows: list[dict[str, Any]] = []

    def add(self, name: str, prediction: "Prediction") -> None:
        self._rows.append(_row(name, prediction, self._top))

    def finish(self) -> None:
        self._file.write(json.dumps(self._rows, indent=1) + "\n")


class _Table(_Json):
    def finish(self) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        if not self._rows:
            return
        table = Table("image", "class", "probability", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for row in self._rows:
            labels = "\n".join(printable(entry["label"]) for entry in row["top"])
            scores = "\n".join(f"{entry['score']:.2%}" for entry in row["top"])
            table.add_row(printable(row["image"]), labels, scores)
        table.columns[0].overflow = "fold"
        table.columns[2].justify = "right"
        show(table, self._file)
