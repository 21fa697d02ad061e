"""Tables in GitHub's Markdown, and a record as one."""

import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

from benchmarks.record import Record
from benchmarks.report.loads import lay_out_loads
from benchmarks.report.rows import Layout, lay_out

# Whatever could begin a link, an image, emphasis, code, HTML or another cell.
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|~#&!])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line: names of files and errors may hold anything."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def write_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Container[int]) -> str:
    """A table whose cells are escaped.

    Args:
        headings: Of the columns.
        rows: As many cells each.
        numbers: Columns, from 0, that are aligned at the right.
    """
    rule = ["---:" if i in numbers else "---" for i in range(len(headings))]
    lines = [rule, *([escape(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [[escape(heading) for heading in headings], *lines])


def to_markdown(record: Record) -> str:
    """A record as tables of the same cells that people see on a terminal, the conditions below."""
    return "\n".join(map(_write, [lay_out(record), *lay_out_loads(record)]))


def _write(layout: Layout) -> str:
    table = write_table(layout.headings, layout.rows, numbers=[i for i, is_number in enumerate(layout.numbers) if is_number])
    return table + "".join(f"\n- {escape(note)}" for note in layout.notes) + "\n"
