import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.studies import forms
from benchmarks.studies.forms import run_study
from edgeresnet.errors import DataError, EdgeResNetError
from edgeresnet.machine import affinity_cores


@dataclass
class Found:
    network: str
    cores: int


def measure(network):
    if network == "broken":
        raise EdgeResNetError("no")
    return Found(network, affinity_cores())


def test_a_network_that_fails_costs_nothing_of_the_others(tmp_path):
    with pytest.raises(EdgeResNetError):
        run_study(["whole", "broken"], measure, tmp_path / "record.json", {"size": 32})
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["results"], record["threads"], record["size"]) == ([{"network": "whole", "cores": affinity_cores()}], 1, 32)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_forms_are_timed_on_one_core_and_the_others_given_back_even_if_one_fails(tmp_path, monkeypatch):
    before, seen = affinity_cores(), []

    def call(values):
        seen.append(affinity_cores())
        if len(seen) > 50:
            raise EdgeResNetError("no")
        return values

    monkeypatch.setattr(forms, "_load", lambda path: call)
    with pytest.raises(EdgeResNetError):
        forms.measure_forms(tmp_path / "fp32.onnx", {"static": forms.Made(tmp_path / "static.onnx")}, np.zeros((2, 3), np.float32))
    assert set(seen) == {1}
    assert affinity_cores() == before
    run_study(["whole"], measure, tmp_path / "record.json", {})
    assert json.loads((tmp_path / "record.json").read_text())["environment"]["cores_allowed"] == 1


def test_a_network_that_is_measured_again_takes_its_old_place(tmp_path):
    record = tmp_path / "record.json"
    run_study(["first", "second"], lambda name: Found(name, 1), record, {"size": 32})
    results = run_study(["third", "first"], lambda name: Found(name, 2), record, {"size": 32})
    assert [(result["network"], result["cores"]) for result in results] == [("first", 2), ("second", 1), ("third", 2)]
    assert json.loads(record.read_text())["results"] == results


@pytest.mark.parametrize("changed", ["size", "cpu"])
def test_what_was_measured_otherwise_is_not_mixed_in_and_not_lost(tmp_path, changed):
    record = tmp_path / "record.json"
    run_study(["first"], lambda name: Found(name, 1), record, {"size": 32})
    document = json.loads(record.read_text())
    (document if changed == "size" else document["environment"])[changed] = "another"
    record.write_text(before := json.dumps(document))
    with pytest.raises(DataError, match=rf"record.json: its networks were measured with another {changed}; fix: write to a new file"):
        run_study(["second"], lambda name: Found(name, 1), record, {"size": 32})
    assert record.read_text() == before
