import json
import os
from dataclasses import dataclass

import pytest

from benchmarks.studies.forms import run_study
from edgeresnet.errors import EdgeResNetError
from edgeresnet.machine import affinity_cores


@dataclass
class Found:
    cores: int


def measure(network):
    if network == "broken":
        raise EdgeResNetError("no")
    return Found(affinity_cores())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_study_has_one_core_and_gives_the_others_back_even_if_it_fails(tmp_path):
    before = affinity_cores()
    with pytest.raises(EdgeResNetError):
        run_study(["whole", "broken"], measure, tmp_path / "record.json", {"size": 32})
    assert affinity_cores() == before
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["results"], record["threads"], record["size"]) == ([{"cores": 1}], 1, 32)
    assert record["environment"]["cores_allowed"] == 1
