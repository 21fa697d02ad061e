"""A record as a table, as CSV and as Markdown: failing rows, doubts and intervals."""

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks.report import build_table, to_csv, to_markdown
from benchmarks.report.csv import ACCURACY_COLUMNS, LATENCY_COLUMNS, RESULT_COLUMNS
from benchmarks.report.loads import lay_out_loads
from benchmarks.report.markdown import escape
from benchmarks.report.rows import lay_out

INT8 = "network-int8.onnx"


@pytest.fixture(scope="module")
def record(make_record):
    return make_record(conditions=((1, 2), (8, 2)), samples=20)


@pytest.fixture(scope="module")
def broken(make_record, with_result):
    doubted = make_record(conditions=((1, 2), (8, 2)), samples=20, doubted=("network-fp32.onnx",))
    return with_result(doubted, INT8, name="=1+1|x.onnx", error="no such operator", latency=[], accuracy=None)


def test_the_speedup_has_its_interval(record):
    layout = lay_out(record)
    column = layout.headings.index("speed-up")
    for entry, row in zip(record.results[2].latency, layout.rows[-2:], strict=True):
        low, high = entry.speedup_interval95
        reach = 100 * max(high / entry.speedup_vs_original - 1, 1 - low / entry.speedup_vs_original)
        assert row[column] == f"{entry.speedup_vs_original:.2f}x ±{reach:.0f}%" if reach >= 1 else f"±{reach:.1f}%" in row[column]
    assert "speed-up: ratio of medians, and how far its 95 % interval over rounds reaches" in layout.notes


def test_a_model_that_failed_is_a_row(broken):
    layout = lay_out(broken)
    assert layout.rows[-1] == ("=1+1|x.onnx", "int8", "5.8", "failed", "-", "-", "-", "-", "-", "-")
    assert "failed: =1+1|x.onnx: no such operator" in layout.notes


def test_a_doubted_row_is_marked_and_has_no_speedup(broken):
    layout = lay_out(broken)
    doubted, fine = layout.rows[2:4]
    assert doubted[4].endswith("?")
    assert doubted[layout.headings.index("speed-up")] == "-"
    assert "x" in fine[layout.headings.index("speed-up")]
    assert "? not to be believed: network-fp32.onnx at 1: other processes kept its cores busy in 8 of 8 rounds" in layout.notes
    stale = replace(broken.results[1].latency[0], speedup_vs_original=3.0)
    told = replace(broken, results=[replace(broken.results[1], latency=[stale])])
    assert lay_out(told).rows[0][layout.headings.index("speed-up")] == "-", "whatever the record says"


def test_threads_have_a_column_where_they_differ(make_record, record):
    assert "thr" not in lay_out(record).headings
    layout = lay_out(make_record(conditions=((1, 1), (1, 2)), samples=20))
    assert [row[layout.headings.index("thr")] for row in layout.rows[:2]] == ["1", "2"]


def test_percentiles_that_are_not_known_are_dashes(record, with_result):
    entry = replace(record.results[2].latency[0], p90_ms=None)
    layout = lay_out(with_result(record, INT8, latency=[entry]))
    assert layout.rows[-1][layout.headings.index("p90 ms")] == "-"


def test_the_table_fits_80_columns(broken, make_record):
    for shown in (broken, make_record(conditions=((1, 1), (1, 2), (32, 2)), samples=20)):
        console = Console(width=80, file=io.StringIO(), legacy_windows=False, markup=False)
        console.print(build_table(shown))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert not any("…" in line for line in lines)


def test_csv_holds_the_records_numbers(record):
    rows = list(csv.DictReader(io.StringIO(to_csv(record))))
    assert list(rows[0]) == [*RESULT_COLUMNS, *LATENCY_COLUMNS, *ACCURACY_COLUMNS]
    expected = [(result, entry) for result in record.results for entry in result.latency]
    for row, (result, entry) in zip(rows, expected, strict=True):
        assert (row["name"], row["provider"], int(row["size_bytes"])) == (result.name, result.provider, result.size_bytes)
        assert (float(row["p50_ms"]), float(row["p90_ms"]), row["p99_ms"]) == (entry.p50_ms, entry.p90_ms, "")
        assert (float(row["p50_low"]), float(row["p50_high"])) == entry.p50_interval95
        assert (float(row["images_per_s"]), int(row["samples"]), int(row["threads"])) == (entry.images_per_s, entry.samples, entry.threads)
        assert (float(row["top1"]), float(row["top1_low"]), row["count"]) == (
            result.accuracy.top1,
            result.accuracy.top1_interval95[0],
            "2000",
        )
        if not result.original:
            assert float(row["speedup_vs_original"]) == entry.speedup_vs_original
            assert (float(row["speedup_low"]), float(row["speedup_high"])) == entry.speedup_interval95


def test_csv_tells_of_failures_and_doubts_and_runs_nothing(broken):
    rows = list(csv.DictReader(io.StringIO(to_csv(broken))))
    assert len(rows) == 5
    assert (rows[-1]["name"], rows[-1]["error"], rows[-1]["p50_ms"]) == ("'=1+1|x.onnx", "no such operator", "")
    assert rows[2]["doubt"].startswith("other processes")
    assert rows[2]["speedup_vs_original"] == rows[2]["speedup_low"] == ""


def test_markdown_has_the_cells_of_the_table(broken):
    lines = to_markdown(broken).splitlines()
    layout = lay_out(broken)
    assert lines[0] == f"| {' | '.join(layout.headings)} |"
    assert lines[1] == "| --- | --- |" + " ---: |" * 8
    assert lines[2 + len(layout.rows)] == ""
    assert lines[1 + len(layout.rows)].startswith("| =1+1\\|x.onnx | int8 | 5.8 | failed | - |")
    notes = lines[3 + len(layout.rows) :][: len(layout.notes)]
    assert notes == [f"- {escape(note)}" for note in layout.notes]


def test_loads_and_layers_have_tables_of_their_own(broken):
    layouts = list(lay_out_loads(broken))
    shown = {layout.notes[0].split(":")[0].split(" of ")[0]: layout for layout in reversed(layouts)}
    loads = [("offline", "offline"), ("server", "server"), ("sustained", "sustained"), ("layers", "layers")]
    for title, attribute in loads:
        measured = [result for result in broken.results if getattr(result, attribute)]
        assert (title in shown) == bool(measured)
        if title in shown and title != "layers":
            assert [row[0] for row in shown[title].rows] == [result.name for result in measured]
    offline = next(result.offline for result in broken.results if result.offline)
    assert shown["offline"].rows[0][2].rstrip("?") == f"{offline.images_per_s:,.0f}"
    server = next(result.server for result in broken.results if result.server)
    held = max((trial for trial in server.trials if trial.held), key=lambda trial: trial.rate_per_s)
    assert shown["server"].rows[0][1:3] == (f"{server.images_per_s:,.0f}", f"{held.p99_ms:.2f}")
    minutes = next(result.sustained for result in broken.results if result.sustained)
    assert shown["sustained"].rows[0][2:4] == (f"{minutes[0].p50_ms:.2f}", f"{minutes[-1].p50_ms:.2f}")
    layers = next(result.layers for result in broken.results if result.layers)
    assert shown["layers"].rows[0] == (layers[0].layer, ", ".join(layers[0].operators), f"{layers[0].p50_ms:.3f}", f"{layers[0].share:.1%}")
    assert "| layer | operators | p50 ms | share |" in to_markdown(broken)


def test_markdown_escapes_what_would_mean_something():
    assert escape("a|b\n<i>[x](y)`*_#!\\") == r"a\|b \<i\>\[x\](y)\`\*\_\#\!\\"
