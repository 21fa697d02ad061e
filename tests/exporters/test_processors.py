"""`quantize --for`: nothing is timed, and what is known of a processor decides."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeresnet.cli.quantize import command
from edgeresnet.errors import ExportError
from exporters import attempt, processors, quantize
from exporters.processors import PROCESSORS, LayerWork, count_work, find_unpaying
from exporters.quantize import quantize_file

FLOAT = TensorProto.FLOAT


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


@pytest.fixture
def untimed(monkeypatch):
    """Whatever is timed fails."""

    def fail(*_arguments, **_options):
        raise AssertionError("it was timed")

    for module, name in ((attempt, "race"), (attempt, "estimate_speedup"), (quantize, "race"), (quantize, "time_fp32_layers")):
        monkeypatch.setattr(module, name, fail)


@pytest.fixture
def network(graphs, tmp_path):
    """Behind the trunk a 1x1 convolution with few products a value, an ordinary one, and a depthwise one."""
    nodes = [*graphs.trunk(), node("Conv", ["features", "narrow"], "n"), graphs.conv("n", "last", "l")]
    nodes += [node("Conv", ["l", "deep"], "d", group=32, pads=[1] * 4), *graphs.pool("d", "y")]
    shapes = {"narrow": (32, 32, 1, 1), "last": (32, 32, 3, 3), "deep": (32, 1, 3, 3)}
    tensors = [*graphs.TRUNK, *(graphs.weights(name, *shape) for name, shape in shapes.items())]
    path = tmp_path / "network.onnx"
    onnx.save(graphs.model(nodes, tensors), path)
    return path


def test_the_work_of_a_layer_is_what_each_pixel_takes(graphs):
    nodes = [
        node("Conv", ["x", "strided"], "s", strides=[2, 2], pads=[1] * 4),
        node("Conv", ["s", "grouped"], "g", group=4, pads=[1] * 4),
        node("ConvTranspose", ["g", "up"], "u", strides=[2, 2]),
        node("GlobalAveragePool", ["u"], "p"),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "wide"], "h", transB=1),
        node("Transpose", ["g"], "t", perm=[0, 2, 3, 1]),
        node("MatMul", ["t", "mixed"], "m"),
        node("MatMul", ["t", "t"], "both"),
    ]
    shapes = {"strided": (16, 3, 3, 3), "grouped": (16, 4, 3, 3), "up": (16, 8, 2, 2), "wide": (100, 8), "mixed": (16, 40)}
    outputs = {"h": (FLOAT, ["N", 100]), "m": (FLOAT, ["N", 12, 12, 40])}
    work = count_work(graphs.model(nodes[:-1], [graphs.weights(name, *shape) for name, shape in shapes.items()], outputs=outputs))
    assert work == {
        "s": LayerWork(3 * 9 * 16 * 144, 3 * 576 + 16 * 144),
        "g": LayerWork(4 * 9 * 16 * 144, 32 * 144),
        "u": LayerWork(16 * 8 * 4 * 144, 16 * 144 + 8 * 576),
        "h": LayerWork(800, 108),
        "m": LayerWork(16 * 40 * 144, 56 * 144),
    }


def test_a_layer_of_few_products_a_value_does_not_pay_on_avx2():
    work = {"few": LayerWork(299, 10), "enough": LayerWork(300, 10)}
    assert find_unpaying(work, "avx2") == {"few": "does not pay on avx2: 29 products a value, 30 are needed"}
    assert not find_unpaying(work, "vnni")


@pytest.mark.parametrize(("processor", "narrow"), [("avx2", "does not pay on avx2: 16 products a value"), ("arm64", "")])
def test_a_file_for_another_processor_is_written_without_timing(untimed, network, graphs, processor, narrow):
    result = quantize_file(network, processor=processor)
    assert (result.path, result.precision, result.processor) == (network.with_name("network-int8.onnx"), "int8", processor)
    assert (result.fp32_ms, result.int8_ms, result.speedup) == (None, None, None)
    reasons = {layer.name: layer.reason for layer in result.layers}
    assert reasons["n"].startswith(narrow)
    assert bool(reasons["n"]) == bool(narrow)
    assert all(layer.sqnr_db > 20 for layer in result.layers if layer.quantized)
    x = graphs.pictures(1, 3, 24, 24)
    expected, found = (graphs.run(path.read_bytes(), x=x)["y"] for path in (network, result.path))
    assert 0 < np.linalg.norm(expected - found) < 0.05 * np.linalg.norm(expected)


def test_the_form_with_more_products_in_int8_is_taken_where_images_allow_both(untimed, network, image_folder):
    result = quantize_file(network, processor="avx2", images=image_folder / "train", pixel_range="normalized")
    assert result.precision == "int8-static"
    assert all(layer.quantized for layer in result.layers)
    (other,) = result.others
    assert (other.precision, other.speedup) == ("int8", None)
    assert other.reason.endswith("% of the products in INT8, not 100%")


def test_the_budget_holds_all_the_same(untimed, network):
    with pytest.raises(ExportError, match=r"are .* dB from the original's .* at least 90 dB are needed"):
        quantize_file(network, processor="vnni", least_db=90)
    with pytest.raises(ExportError, match="'riscv' is none of avx2, vnni, arm64"):
        quantize_file(network, processor="riscv")
    assert list(network.parent.iterdir()) == [network]


def test_the_command_offers_the_processors_that_are_known(run_cli, untimed, network):
    (option,) = [found for found in command.params if found.name == "processor"]
    assert set(option.type.choices) == set(PROCESSORS)
    result = run_cli("quantize", network, "--for", "arm64")
    assert result.status == 0, result.err
    assert "network-int8.onnx: int8, " in result.out
    assert ", for arm64, not timed\n" in result.out
    assert "int8-static was not written: not tried: it needs --images and --pixel-range" in result.err


@pytest.mark.parametrize(("processor", "groups"), [("vnni", 1), ("avx2", 4), ("arm64", 4)])
def test_narrow_groups_are_joined_where_that_was_measured_to_pay(untimed, graphs, tmp_path, image_folder, processor, groups):
    nodes = [*graphs.trunk(), node("Conv", ["features", "grouped"], "g", group=4, pads=[1] * 4), *graphs.pool("g", "y")]
    path = tmp_path / "grouped.onnx"
    onnx.save(graphs.model(nodes, [*graphs.TRUNK, graphs.weights("grouped", 32, 8, 3, 3)]), path)
    result = quantize_file(path, form="static", processor=processor, images=image_folder / "train", pixel_range="normalized")
    *_, last = [part for part in onnx.load(result.path).graph.node if part.op_type == "Conv"]
    assert [attribute.i for attribute in last.attribute if attribute.name == "group"] == [groups]
    assert result.layers[-1].weights == (32, 8, 3, 3)


@pytest.mark.parametrize(("sets", "found"), [(("avx2", "fma"), False), (("avx2", "avx_vnni"), True), (("avx2", "avx512_vnni"), True)])
def test_this_machine_has_vnni_where_it_says_so(monkeypatch, sets, found):
    monkeypatch.setattr(processors, "instruction_sets", lambda: sets)
    assert processors.has_vnni("") is found
    assert (processors.has_vnni("vnni"), processors.has_vnni("arm64")) == (True, False)
