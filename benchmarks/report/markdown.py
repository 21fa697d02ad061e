"""Tables in GitHub's Markdown."""

import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

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
