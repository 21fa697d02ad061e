"""A record is read as it was written, and what is none is refused by name."""

import json
from pathlib import Path

import pytest

from benchmarks.record import Record
from edgeresnet.errors import DataError

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"


def test_an_earlier_record_is_read():
    record = Record.read(RECORDS / "cpu-avx2.json")
    document = json.loads((RECORDS / "cpu-avx2.json").read_text())
    assert [result.name for result in record.results] == [result["name"] for result in document["results"]]
    assert record.original.runtime == "pytorch"
    assert [result.original for result in record.results] == [True] + [False] * (len(record.results) - 1)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record.read(RECORDS / "cpu.json")
    (tmp_path / "again.json").write_text(record.to_json())
    assert Record.read(tmp_path / "again.json") == record


def change(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    if value is None:
        del document[last]
    else:
        document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("results",), None, "`results`"),
        (("results", 0, "latency", 0, "p50_ms"), None, r"`p50_ms` - at `\$.results\[0\].latency\[0\]`"),
        (("results", 1, "latency", 0, "p50_ms"), "fast", r"\$.results\[1\].latency\[0\].p50_ms"),
        (("results", 0, "accuracy", "top1"), [1], "top1"),
        (("environment",), 3, "environment"),
        (("schema",), "edgeresnet.bench/9", "'edgeresnet.bench/9'"),
        (("schema",), None, "None"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(tmp_path, path, value, complaint):
    document = json.loads((RECORDS / "cpu.json").read_text())
    change(document, path, value)
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=complaint):
        Record.read(tmp_path / "r.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3", b'{"schema": "edgeresnet.tuning/1"}', b"[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(DataError, match=r"r\.json: is not a benchmark record"):
        Record.read(tmp_path / "r.json")
    with pytest.raises(DataError, match="cannot be read"):
        Record.read(tmp_path)
