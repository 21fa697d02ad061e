import re
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from edgeresnet.errors import ModelFormatError, ModelNotFoundError
from edgeresnet.modelfile import parse_model, read_model_file
from exporters.foreign.reading import read_model


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_reads_what_the_onnx_package_reads(exports, precision):
    path = exports[precision].path
    expected = onnx.load(path)
    found = read_model_file(path)
    assert found.operators == Counter(node.op_type for node in expected.graph.node)
    assert found.metadata == {entry.key: entry.value for entry in expected.metadata_props}
    assert (found.ir_version, found.opset) == (expected.ir_version, expected.opset_import[0].version)
    assert found.producer == f"{expected.producer_name} {expected.producer_version}"
    assert not found.has_external_data
    assert found.content == path.read_bytes()


def test_external_data_is_noticed(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 64])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output], [tensor]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    assert read_model_file(tmp_path / "m.onnx").has_external_data


@pytest.mark.parametrize("content", [b"", b"hello world", bytes(1000), b"\xff" * 100, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(ModelFormatError, match="not an ONNX model"):
        parse_model(content)


def test_weights_in_place_of_a_model_are_known_as_such(weights, tmp_path):
    state = load_file(weights)
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in (weights, tmp_path / "new.pt", tmp_path / "old.pt"):
        hint = re.escape(f"it looks like weights; fix: `edgeresnet export {path}` makes models of them")
        for read in (read_model_file, read_model):
            with pytest.raises(ModelFormatError, match=hint):
                read(path)


def test_a_cut_model_is_refused_wherever_it_is_cut(exports):
    content = exports["int8"].path.read_bytes()
    for length in (1, 10, 1000, len(content) // 2, len(content) - 5):
        with pytest.raises(ModelFormatError):
            parse_model(content[:length])


def test_a_missing_model_says_where_models_come_from(tmp_path):
    with pytest.raises(ModelNotFoundError, match="edgeresnet export"):
        read_model_file(tmp_path / "none.onnx")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        read_model_file(tmp_path)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200)
OPERATORS = st.sampled_from(["Conv", "Relu", "Add", "MatMulInteger"])


@given(
    operators=st.lists(OPERATORS, max_size=300),
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=3),
    producer=st.tuples(TEXTS, TEXTS),
    versions=st.tuples(st.integers(1, 300), st.integers(-5, 2**40)),
    domains=st.lists(st.tuples(st.sampled_from(["", "ai.onnx.ml", "own"]), st.integers(1, 300)), unique_by=lambda entry: entry[0]),
    sizes=st.lists(st.integers(0, 200), max_size=3),
    external=st.booleans(),
)
def test_what_onnx_writes_is_read(operators, metadata, producer, versions, domains, sizes, external):
    nodes = [onnx.helper.make_node(operator, ["x"], ["y"], name=f"n{i}", alpha=0.5) for i, operator in enumerate(operators)]
    tensors = [onnx.numpy_helper.from_array(np.ones(size, np.float32), f"t{size}") for size in sizes]
    for tensor in tensors:
        tensor.data_location = onnx.TensorProto.DEFAULT
    if external and tensors:
        tensors[-1].data_location = onnx.TensorProto.EXTERNAL
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors), ir_version=versions[0])
    model.producer_name, model.producer_version, model.model_version = *producer, versions[1]
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in domains)
    onnx.helper.set_model_props(model, metadata)
    found = parse_model(model.SerializeToString())
    assert found.operators == Counter(operators)
    assert list(found.operators.values()) == sorted(found.operators.values(), reverse=True)
    assert (found.ir_version, found.opset) == (versions[0], dict(domains).get("", 0))
    assert (found.metadata, found.producer) == (metadata, " ".join(producer).strip())
    assert found.has_external_data == bool(external and tensors)


GRAPH = b"\x08\x07\x3a\x02\x12\x00"  # ir_version 7 and a graph without a name


@pytest.mark.parametrize(
    "more",
    [b"", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\x78" + b"\xff" * 9 + b"\x01", b"\x7a\x03abc"],
    ids=["nothing", "eight bytes", "four bytes", "the largest number", "text"],
)
def test_fields_that_a_later_onnx_may_have_are_passed_over(more):
    for content in (more + GRAPH, GRAPH + more):
        assert (parse_model(content).ir_version, parse_model(content).operators) == (7, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GRAPH + b"\x7b", "wire type 3"),
        (GRAPH + b"\x02\x00", "cut off or something else"),
        (GRAPH + b"\x7d\0\0\0", "cut off or something else"),
        (GRAPH + b"\x79" + bytes(7), "cut off or something else"),
        (GRAPH + b"\x78" + b"\xff" * 10 + b"\x01", "a number is too long"),
        (GRAPH[:2], "it has no graph"),
        (GRAPH[2:], "it has no graph"),
        (b"\x08\x00" + GRAPH[2:], "it has no graph"),
        (GRAPH + b"\x72\x02\x08\x01", "text was expected, a number found"),
        (GRAPH + b"\x42\x02\x12\x00", "a number was expected, bytes found"),
        (GRAPH + b"\x12\x01\xff", "utf-8"),
    ],
)
def test_what_breaks_the_format_is_refused_with_the_reason(content, reason):
    with pytest.raises(ModelFormatError, match=f"^not an ONNX model of {len(content)} bytes .*{reason}"):
        parse_model(content)
