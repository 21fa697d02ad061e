import json
import re
from pathlib import Path

from click.testing import CliRunner

from benchmarks.studies.picture import OTHERS, OURS, command, draw

RECORD = json.loads((Path(__file__).parents[3] / "benchmarks" / "records" / "cpu.json").read_text())


def test_the_command_draws_the_record_and_leaves_out_what_was_not_measured(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    result = CliRunner().invoke(command, [str(tmp_path / "record.json"), "--output", str(tmp_path / "all.svg")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "all.svg").read_text() == draw(RECORD)
    fewer = RECORD | {"results": [each | {"latency": []} if each["precision"] == "int8" else each for each in RECORD["results"]]}
    everything, part = (re.findall(r"<text[^>]*>([^<]+)</text>", draw(record)) for record in (RECORD, fewer))
    assert len(everything) - len(part) == 2
    assert "INT8" in everything
    assert "INT8" not in part


def test_ours_are_told_apart_and_letters_follow_the_page():
    drawn = draw(RECORD)
    others = [each for each in RECORD["results"] if each["runtime"] == "pytorch" or each["precision"] == "int8-stock"]
    assert drawn.count(f"fill: {OTHERS}") == len(others)
    assert drawn.count(f"fill: {OURS}") == len(RECORD["results"]) - len(others)
    assert "prefers-color-scheme: dark" in drawn
    assert 'style="fill: none"' in drawn.split('id="axes_1"')[0], "the background is the page's"
