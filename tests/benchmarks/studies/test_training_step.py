import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks.studies.training_step import command
from edgeresnet.errors import ProviderError
from edgeresnet.training.config import TrainingConfig


def test_a_step_is_profiled_by_its_parts_with_memory_kept_and_handed_back():
    result = CliRunner().invoke(command, ["--steps", "1", "--batch-size", "8", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["arithmetic"] == "float32"
    for way in ("usual", "memory_handed_back"):
        profile = record[way]
        assert list(profile["step_ms"]) == ["prepare", "forward", "backward", "update"]
        step = sum(profile["step_ms"].values())
        assert profile["images_per_s"] == pytest.approx(8000 / step)
        assert profile["prepare_share"] == pytest.approx(profile["step_ms"]["prepare"] / step)
        assert "aten::convolution_backward" in profile["operators"]
        assert 0.5 < sum(profile["operators"].values()) < 1
    assert record["speedup"] == pytest.approx(record["usual"]["images_per_s"] / record["memory_handed_back"]["images_per_s"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_are_profiled_on_a_gpu_alone(tmp_path):
    (tmp_path / "recipe.json").write_text(TrainingConfig().to_json())
    result = CliRunner().invoke(command, ["--gpu-recipe", str(tmp_path / "recipe.json")])
    assert isinstance(result.exception, ProviderError)
    assert "'cuda' was asked for" in str(result.exception)
