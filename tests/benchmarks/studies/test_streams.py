import json

from click.testing import CliRunner

from benchmarks.studies.streams import command


def test_both_ways_are_measured_and_an_image_keeps_its_answer(exports):
    result = CliRunner().invoke(command, [str(exports["int8"].path), "--images", "40", "--threads", "2"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.output)
    assert measured["batch_independent"] is True
    assert measured["ratio"] == measured["streams"] / measured["batches"]
    assert (measured["images"], measured["threads"]) == (40, 2)
    assert measured["environment"]["cpu"]
