import json

import pytest
from click.testing import CliRunner

from benchmarks.training_step import command


def test_a_step_is_profiled_by_its_parts_with_memory_kept_and_handed_back():
    result = CliRunner().invoke(command, ["--steps", "1", "--batch-size", "8", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    for way in ("memory_kept", "memory_handed_back"):
        profile = record[way]
        assert list(profile["step_ms"]) == ["prepare", "forward", "backward", "update"]
        step = sum(profile["step_ms"].values())
        assert profile["images_per_s"] == pytest.approx(8000 / step)
        assert profile["prepare_share"] == pytest.approx(profile["step_ms"]["prepare"] / step)
        assert "aten::convolution_backward" in profile["operators"]
        assert 0.5 < sum(profile["operators"].values()) < 1
    assert record["speedup"] == pytest.approx(record["memory_kept"]["images_per_s"] / record["memory_handed_back"]["images_per_s"])
