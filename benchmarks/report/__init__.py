"""Records and comparisons in forms for people and for their programs: one small file for each form."""

from benchmarks.report.table import build_table

__all__ = ["build_table"]
