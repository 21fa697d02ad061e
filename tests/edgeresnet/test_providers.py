import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeresnet.errors import ProviderError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.providers import ALL, PROBE, Memory, PlacedNode, Settings, list_operators, load_onnxruntime, open_model
from edgeresnet.providers.cpu import Cpu
from edgeresnet.providers.placement import open_whole
from edgeresnet.providers.runtime import reason_of
from edgeresnet.session import Session
from edgeresnet.target import PROVIDERS, Target

PIXELS = synthetic_images(32, 3)


class Azure(Cpu):
    """The CPU wheel has a second real provider, Azure's, which takes no node of any of our models."""

    name = "azure"
    runtime_name = "AzureExecutionProvider"
    rank = 3
    takes_streams = False

    def open(self, content, settings, precision):
        def create(options):
            return onnxruntime.InferenceSession(content, options, providers=[self.runtime_name])

        return open_whole(self, create, settings)


@pytest.fixture
def azure(monkeypatch):
    """A fourth provider: all that it takes to have one."""
    monkeypatch.setattr("edgeresnet.providers.ALL", {**ALL, "azure": Azure()})
    monkeypatch.setattr("edgeresnet.target.PROVIDERS", {**PROVIDERS, "azure": Azure.runtime_name})


def test_nodes_that_would_run_on_the_cpu_are_an_error_that_names_them(azure, exports):
    message = r"'azure' was asked for, but \d+ of \d+ nodes would run on the CPU: 20 Conv \(node_.*, \.\.\.\), .*--force"
    with pytest.raises(ProviderError, match=message):
        Session(exports["fp32"].path, Target(provider="azure"))


def test_force_accepts_them_and_the_placement_tells(azure, exports):
    session = Session(exports["fp32"].path, Target(provider="azure", force=True))
    assert session.provider == "AzureExecutionProvider"
    assert {node.provider for node in session.placement} == {"CPUExecutionProvider"}
    np.testing.assert_array_equal(session.logits(PIXELS), Session(exports["fp32"].path).logits(PIXELS))


def test_auto_tries_another_provider_by_its_rank(azure, exports):
    session = Session(exports["fp32"].path, Target(provider="auto"))
    assert session.provider == "CPUExecutionProvider"
    assert [message.split("'")[1] for message in session.passed_over] == ["azure", "cuda", "openvino"]


@pytest.mark.parametrize("name", ALL)
def test_every_provider_answers_what_the_protocol_asks(name):
    """Whether it is installed or not: reports, the doctor and the tuner ask before anything has started."""
    provider = ALL[name]
    assert provider.name == name == type(provider).__module__.rpartition(".")[2]
    assert provider.runtime_name.endswith("ExecutionProvider")
    assert provider.is_installed() == (name == "cpu")
    assert provider.micro_batch in provider.micro_batches
    assert provider.memory(Settings()).device in ("cpu", "cuda")
    assert provider.missing() == []


def test_options_of_a_provider_are_passed_on(exports):
    target = Target(provider="cuda", provider_options={"device_id": "1", "enable_cuda_graph": "1"})
    assert ALL["cuda"].memory(target.settings) == Memory("cuda", 1, replays=True)
    with pytest.raises(ProviderError, match="provider 'cpu' takes no options, but was given device_id"):
        Session(exports["fp32"].path, Target(provider_options={"device_id": "1"}))
    with pytest.raises(ValueError, match="provider_options must be of a provider"):
        Target(provider="auto", provider_options={"device_id": "1"})
    with pytest.raises(TypeError, match="device_id=1"):
        Target(provider="cuda", provider_options={"device_id": 1})


def test_a_folder_that_is_no_onnx_runtime_is_named(tmp_path, monkeypatch):
    """What is left where two wheels shared a folder and one was removed."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    for name in [name for name in sys.modules if name.split(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ProviderError, match=f"{tmp_path}/onnxruntime, where there is no ONNX Runtime"):
        load_onnxruntime()


def test_the_placement_lists_every_node_of_the_file(exports):
    placement = Session(exports["fp32"].path).placement
    convolutions = [node.name for node in onnx.load(exports["fp32"].path).graph.node if node.op_type == "Conv"]
    assert sorted(node.name for node in placement if node.operator == "Conv") == sorted(convolutions)
    assert Counter(node.provider for node in placement).keys() == {"CPUExecutionProvider"}


def test_operators_are_counted_and_the_first_of_each_is_named():
    nodes = [PlacedNode("p", operator, f"{operator}{i}") for operator, count in (("A", 1), ("B", 2)) for i in range(count)]
    assert list_operators(nodes) == "2 B (B0, ...), 1 A (A0)"
    assert list_operators(nodes, most=1) == "2 B (B0, ...) and 1 more operators"


def test_the_probe_is_one_convolution():
    model = onnx.load_from_string(PROBE)
    onnx.checker.check_model(model, full_check=True)
    assert [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node] == [("Conv", ["x", "x"], ["y"])]
    assert open_model(PROBE, "cpu", Settings(), "fp32").opened.session.run(None, {"x": np.full((1, 1, 1, 1), 3, np.float32)})[0] == 9.0


def test_auto_takes_the_cpu_here_and_says_why(exports):
    session = Session(exports["fp32"].path, Target(provider="auto"))
    assert session.provider == "CPUExecutionProvider"
    cuda, openvino = session.passed_over
    assert "built without CUDA" in cuda
    assert "openvino" in openvino


def test_openvino_without_its_plugin_names_the_extra(exports):
    with pytest.raises(ProviderError, match=r"'openvino' was asked for, but .*plugin is not installed.*edgeresnet\[openvino\]"):
        Session(exports["fp32"].path, Target(provider="openvino"))


def test_reduced_arithmetic_is_stated_unless_it_is_forbidden():
    assert "TF32" in ALL["cuda"].arithmetic(Settings())
    assert ALL["cuda"].arithmetic(Settings(exact=True)) is None
    assert ALL["cpu"].arithmetic(Settings()) is None


def test_memory_that_is_too_small_is_said_in_words():
    """What CUDA said on a GPU is in the record: no device here refuses memory."""
    record = Path(__file__).parents[2] / "benchmarks" / "records" / "gpu" / "little-memory.json"
    said = json.loads(record.read_text())["result"]["error"]
    assert reason_of(RuntimeError(said)).startswith("memory has no room for 2,359,296 bytes more; fix: a larger gpu_mem_limit")
