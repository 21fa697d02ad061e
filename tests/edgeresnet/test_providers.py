from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeresnet.errors import ProviderError
from edgeresnet.providers import PROBE, PlacedNode, _open_whole, list_operators, open_model, reduced_arithmetic
from edgeresnet.session import Session
from edgeresnet.target import PROVIDERS, Target


def open_on_a_provider_that_takes_nothing(exports, monkeypatch, target):
    """The CPU wheel has a second real provider, Azure's, which takes no node of any of our models."""
    monkeypatch.setitem(PROVIDERS, "cuda", "AzureExecutionProvider")
    content = exports["fp32"].path.read_bytes()
    return _open_whole(lambda options: onnxruntime.InferenceSession(content, options, providers=["AzureExecutionProvider"]), target)


def test_nodes_that_would_run_on_the_cpu_are_an_error_that_names_them(exports, monkeypatch):
    with pytest.raises(ProviderError, match=r"\d+ of \d+ nodes would run on the CPU: 20 Conv \(node_.*, \.\.\.\), .*--force"):
        open_on_a_provider_that_takes_nothing(exports, monkeypatch, Target(provider="cuda"))


def test_force_accepts_them_and_the_placement_tells(exports, monkeypatch):
    opened = open_on_a_provider_that_takes_nothing(exports, monkeypatch, Target(provider="cuda", force=True))
    assert opened.provider == "AzureExecutionProvider"
    assert {node.provider for node in opened.placement} == {"CPUExecutionProvider"}


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
    assert open_model(PROBE, Target(), "fp32").session.run(None, {"x": np.full((1, 1, 1, 1), 3, np.float32)})[0] == 9.0


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
    assert "TF32" in reduced_arithmetic("CUDAExecutionProvider", Target(provider="cuda"))
    assert reduced_arithmetic("CUDAExecutionProvider", Target(provider="cuda", exact=True)) is None
    assert reduced_arithmetic("CPUExecutionProvider", Target()) is None
