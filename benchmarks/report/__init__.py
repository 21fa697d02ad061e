"""Records and comparisons in forms for people and for their programs: one small file for each form."""

from benchmarks.report.csv import to_csv
from benchmarks.report.markdown import to_markdown
from benchmarks.report.table import build_table, find_warnings

__all__ = ["build_table", "find_warnings", "to_csv", "to_markdown"]
