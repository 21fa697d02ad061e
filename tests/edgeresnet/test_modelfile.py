from collections import Counter

import numpy as np
import onnx
import pytest

from edgeresnet.errors import ModelFormatError, ModelNotFoundError
from edgeresnet.modelfile import parse_model, read_model_file


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
