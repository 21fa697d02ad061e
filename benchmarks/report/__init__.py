"""Records and comparisons in forms for people and for their programs: one small file for each form."""

from benchmarks.report.csv import to_csv
from benchmarks.report.markdown import to_markdown
from benchmarks.report.table import build_load_tables, build_table

__all__ = ["build_load_tables", "build_table", "to_csv", "to_markdown"]
