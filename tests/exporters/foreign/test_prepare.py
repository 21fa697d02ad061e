import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeresnet.errors import ExportError, ModelFormatError, ModelNotFoundError
from exporters.foreign.inputs import ImageTensor
from exporters.foreign.prepare import prepare

FLOAT = TensorProto.FLOAT


@pytest.fixture
def prepared(tmp_path, graphs):
    """Saves a model, prepares it, and holds it against the file with images that the room's own check did not see."""

    def make(network, tolerance=1e-4, **options):
        path = tmp_path / "network.onnx"
        onnx.save(network, path)
        result = prepare(path, **options)
        image = result.image_input
        x = image.arrange(graphs.pictures(image.batch or 2, image.channels, image.height, image.width).transpose(0, 2, 3, 1))
        expected, found = graphs.run(result.source, **{image.name: x}), graphs.run(result.model, **{image.name: x})
        assert list(expected) == list(found) == list(result.outputs)
        for name, values in expected.items():
            assert values.dtype == found[name].dtype
            np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance)
        onnx.checker.check_model(result.model, full_check=True)
        return result

    return make


def operators(result):
    return [node.op_type for node in result.model.graph.node]


def test_a_plain_network_is_described(prepared, graphs):
    result = prepared(graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK))
    assert result.image_input == ImageTensor(name="x", element_type="float32", layout="NCHW", channels=3, height=24, width=24, batch=None)
    assert (result.outputs, result.half) == (("y",), False)


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (12, 7), (18, 8), (21, 10)])
def test_old_and_new_files_become_one_form(prepared, graphs, opset, ir_version):
    """Until IR version 3 every initializer had to be an input, where its value could be overridden."""
    norm = [graphs.tensor(name, np.full(32, value)) for name, value in (("gain", 0.9), ("shift", 0.1), ("mean", 0.2), ("variance", 1.2))]
    nodes = [*graphs.trunk(), graphs.node("BatchNormalization", ["features", "gain", "shift", "mean", "variance"], ["normal"])]
    tensors = [*graphs.TRUNK, *norm]
    inputs = {"x": (FLOAT, [1, 3, 24, 24])} | ({t.name: (FLOAT, list(t.dims)) for t in tensors} if ir_version == 3 else {})
    network = graphs.model([*nodes, *graphs.pool("normal", "y")], tensors, inputs=inputs, batch=1, opset=opset, ir_version=ir_version)
    result = prepared(network)
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.model.opset_import[0].version == max(opset, 18)
    assert result.image_input.batch == 1


def test_resizing_of_old_opsets_keeps_its_coordinates(prepared, graphs):
    """Opset 11 made other coordinates the default, and onnx's converter names none."""
    for operator, opset in (("Upsample", 9), ("Resize", 10)):
        for mode in ("linear", "nearest"):
            nodes = [*graphs.trunk(), graphs.node(operator, ["features", "scales"], ["y"], mode=mode)]
            tensors = [*graphs.TRUNK, graphs.tensor("scales", [1, 1, 2, 2])]
            prepared(graphs.model(nodes, tensors, outputs={"y": (FLOAT, ["N", 32, 48, 48])}, opset=opset, ir_version=4))


def test_sizes_that_are_open_need_a_size(prepared, graphs):
    network = graphs.model(
        [*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK, inputs={"x": (FLOAT, ["N", 3, "height", "width"])}
    )
    with pytest.raises(ExportError, match=r"size of the images, x, is open \(height x width: open x open\); fix: .*--size HxW"):
        prepared(network)
    result = prepared(network, size=(16, 40))
    assert (result.image_input.height, result.image_input.width) == (16, 40)
    inner = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in result.model.graph.value_info}
    assert inner["features"][1:] == [32, 16, 40]
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    with pytest.raises(ExportError, match="--size 16x24: the images of the model, x, are of 24 x 24 pixels"):
        prepared(network, size=(16, 24))


def test_channels_last_are_found_by_what_reads_them(prepared, graphs):
    nodes = [graphs.node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]), *graphs.trunk("planes"), *graphs.pool("features", "y")]
    result = prepared(graphs.model(nodes, graphs.TRUNK, inputs={"x": (FLOAT, ["N", 24, 3, 3])}))
    assert (result.image_input.layout, result.image_input.height, result.image_input.width) == ("NHWC", 24, 3)


def test_weights_behind_nodes_and_in_functions_become_constants(prepared, graphs):
    stored = numpy_helper.to_array(graphs.TRUNK[0]).transpose(2, 3, 1, 0)
    half = [helper.make_node("Constant", [], ["h"], value_float=0.5), helper.make_node("Mul", ["a", "h"], ["b"])]
    function = helper.make_function("local", "Halve", ["a"], ["b"], half, [helper.make_opsetid("", 18)])
    nodes = [
        graphs.node("Transpose", ["stored"], ["w0"], perm=[3, 2, 0, 1]),
        graphs.node("Identity", ["other"], ["w1"]),
        graphs.node("Halve", ["half"], ["w2"], domain="local"),
        *graphs.trunk(),
        *graphs.pool("features", "y"),
    ]
    tensors = [graphs.tensor("stored", stored), graphs.weights("other", 32, 32, 3, 3), graphs.weights("half", 32, 32, 3, 3)]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    result = prepared(graphs.model(nodes, tensors, functions=[function], opset_imports=imports))
    constants = {tensor.name for tensor in result.model.graph.initializer}
    assert all(node.input[1] in constants for node in result.model.graph.node if node.op_type == "Conv")
    assert not {"Transpose", "Identity", "Halve", "Mul"} & set(operators(result))
    assert not result.model.functions


def test_pads_that_are_computed_are_constants(prepared, graphs):
    """As PyTorch's older exporter writes F.pad: zeros are put behind the pads, and all turned round."""
    nodes = [
        graphs.node("ConstantOfShape", ["count"], ["zeros"], value=graphs.tensor("zero", [0], np.int64)),
        graphs.node("Concat", ["pads", "zeros"], ["all"], axis=0),
        graphs.node("Reshape", ["all", "pairs"], ["in_pairs"]),
        graphs.node("Slice", ["in_pairs", "last", "first", "axis", "last"], ["turned"]),
        graphs.node("Transpose", ["turned"], ["apart"], perm=[1, 0]),
        graphs.node("Reshape", ["apart", "last"], ["ordered"]),
        graphs.node("Pad", ["x", "ordered"], ["padded"]),
        *graphs.trunk("padded"),
        *graphs.pool("features", "y"),
    ]
    values = {"count": [4], "pads": [1, 2, 1, 2], "pairs": [-1, 2], "last": [-1], "first": [-(2**63) + 1], "axis": [0]}
    result = prepared(graphs.model(nodes, [*graphs.TRUNK, *(graphs.tensor(name, value, np.int64) for name, value in values.items())]))
    inner = {value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in result.model.graph.value_info}
    assert inner["features"][1:] == [32, 27, 27]
    assert operators(result).count("Pad") + operators(result).count("ConstantOfShape") <= 1


def test_sizes_taken_out_of_a_shape_are_constants_though_the_batch_is_open(prepared, graphs):
    """One at a time, as PyTorch's older exporter writes the padding of TensorFlow's SAME."""
    nodes = [
        *graphs.trunk(),
        graphs.node("Shape", ["features"], ["shape"]),
        graphs.node("Gather", ["shape", "last"], ["width"], axis=0),
        graphs.node("Shape", ["features"], ["image"], start=2),
        graphs.node("Gather", ["image", "first"], ["height"], axis=0),
        graphs.node("Sub", ["width", "height"], ["difference"]),
        graphs.node("Add", ["difference", "two"], ["more"]),
        graphs.node("Concat", ["zeros", "more"], ["pads"], axis=0),
        graphs.node("Pad", ["features", "pads"], ["y"]),
    ]
    values = {"last": -1, "first": [0], "two": [2], "zeros": [0] * 7}
    tensors = [graphs.tensor(name, value, np.int64) for name, value in values.items()]
    result = prepared(graphs.model(nodes, [*graphs.TRUNK, *tensors], outputs={"y": (FLOAT, ["N", 32, 24, 26])}))
    assert not {"Shape", "Gather", "Concat"} & set(operators(result))
    assert result.image_input.batch is None


def test_a_resize_in_a_branch_keeps_its_coordinates(prepared, graphs):
    resized = graphs.node("Resize", ["features", "scales"], ["larger"], mode="linear")
    then = helper.make_graph([resized], "then", [], [helper.make_tensor_value_info("larger", FLOAT, None)])
    copied = graphs.node("Resize", ["features", "scales"], ["copied"])
    otherwise = helper.make_graph([copied], "otherwise", [], [helper.make_tensor_value_info("copied", FLOAT, None)])
    nodes = [
        *graphs.trunk(),
        graphs.node("ReduceMax", ["x"], ["largest"], keepdims=0),
        graphs.node("Greater", ["largest", "limit"], ["is_large"]),
        graphs.node("If", ["is_large"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    tensors = [*graphs.TRUNK, graphs.tensor("scales", [1, 1, 2, 2]), graphs.tensor("limit", -99)]
    prepared(graphs.model(nodes, tensors, opset=10, batch=1, outputs={"y": (FLOAT, None)}))


def test_shapes_that_are_out_of_date_are_corrected(prepared, graphs):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK, batch=4, outputs={"y": (FLOAT, [1, 32])})
    network.graph.value_info.append(helper.make_tensor_value_info("features", FLOAT, [1, 32, 12, 12]))
    result = prepared(network)
    (output,) = result.model.graph.output
    assert [dimension.dim_value for dimension in output.type.tensor_type.shape.dim] == [4, 32]


def test_a_batch_is_what_runs_not_what_is_declared(prepared, graphs):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK, batch=-1)
    assert prepared(network).image_input.batch is None
    one = graphs.node("Reshape", ["features", "one"], ["y"])
    network = graphs.model(
        [*graphs.trunk(), one], [*graphs.TRUNK, graphs.tensor("one", [1, 32, 24, 24], np.int64)], outputs={"y": (FLOAT, None)}
    )
    assert prepared(network).image_input.batch == 1


def test_tensors_in_a_side_file_are_read_from_the_folder_of_the_model_alone(tmp_path, graphs):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "network.onnx"
    onnx.save(network, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    network = onnx.load(path)
    x = graphs.pictures(1, 3, 24, 24)
    result = prepare(path)
    np.testing.assert_array_equal(graphs.run(result.source, x=x)["y"], graphs.run(network, x=x)["y"])

    content = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(content[:-100])
    with pytest.raises(ModelFormatError, match=r"network.onnx: .*side file"):
        prepare(path)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(ModelNotFoundError, match=r"keeps the tensor w\d in weights.bin, which is not there"):
        prepare(path)
    reader = onnx.load(path, load_external_data=False)
    for tensor in reader.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../weights.bin"
    path.write_bytes(reader.SerializeToString())
    with pytest.raises(ModelFormatError, match=r"'../weights.bin', which is not in the model's folder"):
        prepare(path)


def test_other_inputs_are_fixed_to_constants(prepared, graphs):
    nodes = [*graphs.trunk(), *graphs.pool("features", "pooled"), graphs.node("Mul", ["pooled", "gain"], ["y"])]
    inputs = {"x": (FLOAT, ["N", 3, 24, 24]), "gain": (FLOAT, ["N", 1])}
    network = graphs.model(nodes, graphs.TRUNK, inputs=inputs)
    with pytest.raises(ExportError, match=r"beside the images, x, the model reads gain; fix: .*--input gain=VALUE"):
        prepared(network)
    with pytest.raises(ExportError, match="--input other: the model has no such input; it has x, gain"):
        prepared(network, fixed={"other": 1})
    with pytest.raises(ExportError, match="--input x: no input is left that takes images; fix: leave it out, that one does"):
        prepared(network, fixed={"x": 1, "gain": 1})
    with pytest.raises(ExportError, match="--input gain=much: not a number"):
        prepared(network, fixed={"gain": "much"})
    result = prepared(network, fixed={"gain": "2.5"})
    assert [value.name for value in result.model.graph.input] == ["x"]
    x = graphs.pictures(1, 3, 24, 24)
    np.testing.assert_allclose(
        graphs.run(network, x=x, gain=np.array([[2.5]], np.float32))["y"], graphs.run(result.model, x=x)["y"], rtol=1e-5
    )


def test_half_precision_is_computed_in_float32(prepared, graphs):
    half = TensorProto.FLOAT16
    tensors = [graphs.weights(tensor.name, *tensor.dims, dtype=np.float16) for tensor in graphs.TRUNK]
    nodes = [*graphs.trunk(), *graphs.pool("features", "y")]
    network = graphs.model(nodes, tensors, inputs={"x": (half, ["N", 3, 24, 24])}, outputs={"y": (half, ["N", 32])})
    result = prepared(network, tolerance=5e-3)
    assert (result.half, result.image_input.element_type) == (True, "float16")
    assert {tensor.data_type for tensor in result.model.graph.initializer if len(tensor.dims) == 4} == {FLOAT}


def test_files_without_images_are_refused_for_the_true_reason(tmp_path, graphs):
    path = tmp_path / "network.onnx"
    with pytest.raises(ModelNotFoundError, match="no such model file"):
        prepare(path)
    path.write_bytes(b"junk")
    with pytest.raises(ModelFormatError, match="not a valid ONNX model"):
        prepare(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFormatError, match="its graph has no nodes"):
        prepare(path)
    network = graphs.model([graphs.node("Relu", ["x"], ["y"])], [], inputs={"x": (FLOAT, ["N", 8])}, outputs={"y": (FLOAT, ["N", 8])})
    onnx.save(network, path)
    with pytest.raises(ExportError, match=r"no input of the model takes images.*: x \(float, \(N, 8\)\)"):
        prepare(path)
    inputs = {"x": (FLOAT, [1, 3, 8, 8]), "z": (FLOAT, [1, 3, 8, 8])}
    onnx.save(graphs.model([graphs.node("Add", ["x", "z"], ["y"])], [], inputs=inputs, outputs={"y": (FLOAT, [1, 3, 8, 8])}), path)
    with pytest.raises(ExportError, match=r"more than one input that takes images \(x, z\)"):
        prepare(path)
    onnx.save(graphs.model([graphs.node("Nothing", ["x"], ["y"])], []), path)
    with pytest.raises(ExportError, match="ONNX Runtime cannot load the model"):
        prepare(path)


def test_a_graph_that_would_change_its_answers_is_refused(prepared, graphs, monkeypatch):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    from exporters.foreign import prepare as room

    def spoil(model):
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(model.graph.initializer[0]), "w0"))
        return model

    monkeypatch.setattr(room, "raise_opset", spoil)
    with pytest.raises(ExportError, match=r"could not be made plain without changing its answers \(output y: .*dB"):
        prepared(network)


def test_what_others_write_as_four_operators_is_one(prepared, graphs):
    nodes = [
        *graphs.trunk(),
        graphs.node("Add", ["features", "three"], ["a"]),
        graphs.node("Clip", ["a", "zero", "six"], ["b"]),
        graphs.node("Mul", ["features", "b"], ["c"]),
        graphs.node("Div", ["c", "six"], ["d"]),
        *graphs.pool("d", "y"),
    ]
    numbers = [graphs.tensor(name, value) for name, value in (("zero", 0), ("three", 3), ("six", 6))]
    result = prepared(graphs.model(nodes, [*graphs.TRUNK, *numbers]))
    assert "HardSwish" in operators(result)
    assert "Div" not in operators(result)


@pytest.mark.parametrize(("order", "taken"), [(np.arange(32), 0), (np.arange(32)[::-1], 1)], ids=["as they are", "turned round"])
def test_numbers_that_are_taken_out_in_their_order_are_themselves(prepared, graphs, order, taken):
    """As PyTorch's exporter writes squeeze-and-excite."""
    nodes = [
        *graphs.trunk(),
        graphs.node("ReduceMean", ["features", "sides"], ["means"], keepdims=1),
        graphs.node("Reshape", ["means", "row"], ["in_a_row"]),
        graphs.node("Gather", ["in_a_row", "order"], ["strided"], axis=0),
        graphs.node("Mul", ["features", "strided"], ["gated"]),
        *graphs.pool("gated", "y"),
    ]
    tensors = [graphs.tensor(name, values, np.int64) for name, values in (("sides", [2, 3]), ("row", [-1]))]
    tensors.append(graphs.tensor("order", order.reshape(1, 32, 1, 1), np.int64))
    result = prepared(graphs.model(nodes, [*graphs.TRUNK, *tensors], batch=1))
    assert operators(result).count("Gather") == taken


def test_sparse_weights_are_weights(prepared, graphs):
    places = np.arange(0, 32 * 32, 7)
    values = np.random.default_rng(0).normal(size=len(places)).astype(np.float32)
    by_number = helper.make_sparse_tensor(graphs.tensor("sparse", values), graphs.tensor("", places, np.int64), [32, 32, 1, 1])
    pairs = np.stack(np.unravel_index(places, (32, 32)), axis=1)
    by_index = helper.make_sparse_tensor(graphs.tensor("", values), graphs.tensor("", pairs, np.int64), [32, 32])
    nodes = [
        *graphs.trunk(),
        graphs.node("Conv", ["features", "sparse"], ["map"]),
        *graphs.pool("map", "row"),
        graphs.node("Constant", [], ["matrix"], sparse_value=by_index),
        graphs.node("MatMul", ["row", "matrix"], ["y"]),
    ]
    network = graphs.model(nodes, graphs.TRUNK)
    network.graph.sparse_initializer.append(by_number)
    result = prepared(network)
    assert {"sparse", "matrix"} <= {tensor.name for tensor in result.model.graph.initializer}


@pytest.mark.parametrize("domains", [("ai.onnx",), ("", "ai.onnx")], ids=["alone", "beside the short form"])
def test_the_domain_of_onnx_has_two_names(prepared, graphs, domains):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    network.graph.node[0].domain = "ai.onnx"
    del network.opset_import[:]
    network.opset_import.extend(helper.make_opsetid(domain, 18) for domain in domains)
    result = prepared(network)
    assert [(entry.domain, entry.version) for entry in result.model.opset_import] == [("", 18)]


def test_nodes_in_any_order_and_outputs_without_a_shape_are_taken(prepared, graphs):
    nodes = [*graphs.trunk(), graphs.node("GroupNormalization", ["features", "gain", "shift"], ["y"], num_groups=4)]
    tensors = [*graphs.TRUNK, graphs.tensor("gain", np.full(32, 0.9)), graphs.tensor("shift", np.full(32, 0.1))]
    network = graphs.model(nodes[::-1], tensors, outputs={"y": (FLOAT, None)}, opset=21, ir_version=10)
    assert len(prepared(network).model.graph.output[0].type.tensor_type.shape.dim) == 4


REFUSED = {
    "two outputs of the model have the same name, y": lambda graphs: graphs.node("Identity", ["features"], ["y"]),
    "the output y has no values on these images": lambda graphs: graphs.node("Log", ["minus"], ["y"]),
    "answers the same images differently from call to call .it has RandomNormalLike": lambda graphs: graphs.node(
        "RandomNormalLike", ["features"], ["y"]
    ),
}


@pytest.mark.parametrize(("reason", "end"), REFUSED.items(), ids=["names", "nothing", "chance"])
def test_what_has_no_answer_to_compare_is_refused_for_that(prepared, graphs, reason, end):
    nodes = [*graphs.trunk(), graphs.node("Sub", ["minus_two", "features"], ["minus"]), end(graphs)]
    network = graphs.model(nodes, [*graphs.TRUNK, graphs.tensor("minus_two", -2)], outputs={"y": (FLOAT, None)})
    if "same name" in reason:
        network.graph.output.append(network.graph.output[0])
    with pytest.raises(ExportError, match=reason):
        prepared(network)


def test_an_input_that_is_an_output_is_refused(prepared, graphs):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    network.graph.output.append(network.graph.input[0])
    with pytest.raises(ExportError, match="the output x is an input of the model, which ONNX does not allow; fix: "):
        prepared(network)


@pytest.mark.parametrize(
    ("activation", "opset"),
    [
        ({"activation": "Relu"}, 18),
        ({"activation": "Tanh"}, 18),
        ({"activation": "LeakyRelu", "activation_params": [0.3]}, 18),
        ({"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}, 18),
        ({"activation": "Clip", "activation_params": [0.1, 0.9]}, 18),
        ({"activation": "Clip", "activation_params": [0.1, 0.9]}, 10),
        ({}, 18),
    ],
)
@pytest.mark.parametrize("inputs", [["w1"], ["w1", "bias"], ["w1", "bias", "features"], ["w1", "", "features"]])
def test_layers_that_onnx_runtime_has_fused_are_layers(prepared, graphs, activation, opset, inputs):
    """As in files that it has optimised and written."""
    nodes = [*graphs.trunk(), graphs.node("FusedConv", ["features", *inputs], ["f"], domain="com.microsoft", pads=[1] * 4, **activation)]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    tensors = [*graphs.TRUNK, *([graphs.tensor("bias", np.linspace(-1, 1, 32))] if "bias" in inputs else [])]
    network = graphs.model([*nodes, *graphs.pool("f", "y")], tensors, opset_imports=imports)
    result = prepared(network)
    assert {node.domain for node in result.model.graph.node} == {""}
    assert operators(result).count("Conv") == 4
    assert operators(result).count("Add") == ("features" in inputs)


def test_a_linear_layer_that_onnx_runtime_has_fused_is_one(prepared, graphs):
    fused = graphs.node(
        "FusedGemm", ["flat", "matrix"], ["y"], domain="com.microsoft", transB=1, activation="LeakyRelu", activation_alpha=0.3
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    tensors = [*graphs.TRUNK, graphs.weights("matrix", 32, 32)]
    result = prepared(graphs.model([*graphs.trunk(), *graphs.pool("features", "flat"), fused], tensors, opset_imports=imports))
    assert operators(result)[-2:] == ["Gemm", "LeakyRelu"]


def test_an_optional_output_is_an_output(prepared, graphs):
    nodes = [*graphs.trunk(), *graphs.pool("features", "y"), graphs.node("Optional", ["y"], ["perhaps"])]
    network = graphs.model(nodes, graphs.TRUNK, outputs={"y": (FLOAT, ["N", 32]), "perhaps": (FLOAT, None)})
    network.graph.output[1].type.CopyFrom(helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    assert prepared(network).outputs == ("y", "perhaps")
