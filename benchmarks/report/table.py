"""A benchmark record as tables for people."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.record import Record
from benchmarks.report.loads import lay_out_loads
from benchmarks.report.rows import Layout, lay_out


def build_table(record: Record) -> Table:
    """One row for each model, batch size and number of threads, with the conditions below; it fits a terminal of 80 columns."""
    return _draw(lay_out(record))


def build_load_tables(record: Record) -> list[Table]:
    """A table for each further kind of load that was measured, and for the layers of each model."""
    return [_draw(layout) for layout in lay_out_loads(record)]


def _draw(layout: Layout) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, caption="\n".join(layout.notes), caption_justify="left")
    for heading, is_number in zip(layout.headings, layout.numbers, strict=True):
        if is_number:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    for row in layout.rows:
        table.add_row(*row)
    return table
