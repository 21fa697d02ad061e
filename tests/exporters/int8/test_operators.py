"""Each operator that has a rule on rows, at the edges of the rule, against ONNX Runtime on the network as it was.

A convolution of whole numbers, exact in 8 bits, comes first: what follows then differs by nothing but the order of float sums.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeresnet.errors import ExportError
from exporters.int8.quantize import quantize_dynamic_int8

CHANNELS, HEIGHT, WIDTH = 16, 6, 16  # as wide as deep: a vector that broadcasts over the width must not be taken for one over the channels
GENERATOR = np.random.default_rng(0)


def whole_weights(outputs, inputs, kernel=(1, 1)):
    """Multiples of 2**-14 whose largest is 127: their scale is 2**-14, and neighbours cannot saturate."""
    weights = np.random.default_rng(outputs).integers(-60, 61, (outputs, inputs, *kernel))
    weights[:, 0, 0, 0], weights[:, 1, 0, 0] = 127, -60
    return (weights * 2.0**-14).astype(np.float32)


def whole_pixels(count=3, channels=CHANNELS, height=HEIGHT, width=WIDTH):
    """0 to 255: their scale is 1."""
    pixels = GENERATOR.integers(0, 256, (count, channels, height, width)).astype(np.float32)
    pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = 255, 0
    return pixels


def build(nodes, constants=None, *, shape=(CHANNELS, HEIGHT, WIDTH), outputs=("y",), opset=20, functions=()):
    """A network that takes ``x`` through an exact convolution to ``c``, and from there through the given nodes."""
    constants = {"w": whole_weights(CHANNELS, shape[0]), **(constants or {})}
    convolution = helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1])
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([convolution, *nodes], "g", [images], ends, tensors)
    domains = {"": opset} | {function.domain: 1 for function in functions}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    return onnx.shape_inference.infer_shapes(model)


def node(operator, inputs="c", output="y", **attributes):
    return helper.make_node(operator, inputs.split(), output.split(), **attributes)


def run(model, pixels):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": pixels})


def quantize(model):
    quantized = quantize_dynamic_int8(model)
    assert quantized.layers[0].quantized
    return quantized


def assert_same_answers(model, quantized, pixels=None):
    pixels = whole_pixels(height=HEIGHT, width=WIDTH) if pixels is None else pixels
    for found, expected in zip(run(quantized.model, pixels), run(model, pixels), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def works_on_rows(quantized):
    """Whether the node that gave ``y`` was replaced by one on rows."""
    return "y/rows" in {name for found in quantized.model.graph.node for name in found.output}


def ints(*values):
    return np.array(values, np.int64)


def floats(*shape):
    return GENERATOR.uniform(0.5, 2, shape).astype(np.float32)


ELEMENTWISE = {
    "Relu": [node("Relu")],
    "LeakyRelu": [node("LeakyRelu", alpha=0.3)],
    "Elu": [node("Elu", alpha=0.5)],
    "HardSigmoid": [node("HardSigmoid", alpha=0.05, beta=0.3)],
    "HardSwish": [node("HardSwish")],
    "Mish": [node("Mish")],
    "Sigmoid": [node("Sigmoid")],
    "Softplus": [node("Softplus")],
    "Tanh": [node("Tanh")],
    "Identity": [node("Identity")],
    "Gelu": [node("Gelu", approximate="tanh")],
    "Clip": [node("Clip", "c low high")],
    "Clip without a low end": [helper.make_node("Clip", ["c", "", "high"], ["y"])],
}


@pytest.mark.parametrize("nodes", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_an_elementwise_operator_keeps_its_attributes(nodes):
    model = build(nodes, {"low": np.float32(-2), "high": np.float32(3)})
    quantized = quantize(model)
    assert works_on_rows(quantized)
    assert_same_answers(model, quantized)


def resize(scales, sizes=None, **attributes):
    inputs = ["c", "", scales, *([sizes] if sizes else [])]
    return helper.make_node("Resize", inputs, ["y"], **attributes)


def shifted(*nodes):
    """``p``, which is ``c`` without its sign: something to divide by."""
    return [node("Abs", "c", "a"), node("Add", "a one", "p"), *nodes]


ON_ROWS = {
    "a scalar": ([node("Mul", "c half")], {"half": np.float32(0.5)}),
    "a scalar of four dimensions": ([node("Mul", "c half")], {"half": np.full((1, 1, 1, 1), 0.5, np.float32)}),
    "a constant less an image": ([node("Sub", "k c")], {"k": floats(CHANNELS, 1, 1)}),
    "an image less a constant": ([node("Sub", "c k")], {"k": floats(1, CHANNELS, 1, 1)}),
    "a constant over an image": (shifted(node("Relu", "p", "q"), node("Div", "k c")), {"k": floats(CHANNELS, 1, 1), "one": np.float32(1)}),
    "an image over a constant": ([node("Div", "c k")], {"k": floats(CHANNELS, 1, 1)}),
    "two images": ([node("Relu", "c", "r"), node("Sub", "c r")], {}),
    "an image twice": ([node("Add", "c c")], {}),
    "an image that was not in rows": ([node("Sub", "x c")], {}),
    "a gate per channel": ([node("GlobalAveragePool", "c", "m"), node("Sigmoid", "m", "s"), node("Mul", "c s")], {}),
    "channels": ([node("Relu", "c", "r"), node("Concat", "c r", axis=1)], {}),
    "channels from behind": ([node("Relu", "c", "r"), node("Concat", "r c", axis=-3)], {}),
    "channels of an image that was not in rows": ([node("Concat", "x c", axis=1)], {}),
    "a norm": (
        [node("BatchNormalization", "c g b m v", epsilon=0.5)],
        {"g": floats(CHANNELS), "b": floats(CHANNELS), "m": floats(CHANNELS), "v": floats(CHANNELS)},
    ),
    "a norm with the usual epsilon": (
        [node("BatchNormalization", "c g b m v")],
        {"g": floats(CHANNELS), "b": floats(CHANNELS), "m": floats(CHANNELS), "v": 1e-5 * floats(CHANNELS)},
    ),
    "mean": ([node("AveragePool", kernel_shape=[2, 3], strides=[1, 2])], {}),
    "mean of windows that count no padding": ([node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1)], {}),
    "dilated mean": ([node("AveragePool", kernel_shape=[2, 2], dilations=[2, 3])], {}),
    "mean with windows that fit": ([node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}),
    "mean of the image as a window": ([node("AveragePool", kernel_shape=[HEIGHT, WIDTH])], {}),
    "global mean": ([node("GlobalAveragePool")], {}),
    "mean over axes": ([node("ReduceMean", "c axes")], {"axes": ints(2, 3)}),
    "mean over axes from behind": ([node("ReduceMean", "c axes", keepdims=1)], {"axes": ints(-1, -2)}),
    "the nearest pixel": ([resize("scales")], {"scales": np.float32([1, 1, 2, 2])}),
    "the nearest pixel by other coordinates": (
        [resize("scales", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"scales": np.float32([1, 1, 1.7, 0.6])},
    ),
    "the nearest pixel of half the size": ([resize("scales", nearest_mode="ceil")], {"scales": np.float32([1, 1, 0.5, 0.5])}),
    "the nearest pixel to a size": ([resize("", "sizes", axes=[2, 3])], {"sizes": ints(11, 9)}),
    "interpolation": ([resize("scales", mode="linear")], {"scales": np.float32([1, 1, 2, 2])}),
    "interpolation between corners": (
        [resize("scales", mode="linear", axes=[3, 2], coordinate_transformation_mode="align_corners")],
        {"scales": np.float32([0.7, 2.5])},
    ),
    "interpolation to a size that no factor gives": (
        [resize("", "sizes", mode="linear", axes=[2, 3], coordinate_transformation_mode="pytorch_half_pixel")],
        {"sizes": ints(23, 29)},
    ),
    "interpolation to a size": (
        [resize("", "sizes", mode="linear", axes=[-2, -1], coordinate_transformation_mode="asymmetric")],
        {"sizes": ints(4, 33)},
    ),
}


@pytest.mark.parametrize(("nodes", "constants"), ON_ROWS.values(), ids=ON_ROWS)
def test_what_can_work_on_rows_does_and_means_the_same(nodes, constants):
    model = build(nodes, constants)
    quantized = quantize(model)
    assert works_on_rows(quantized)
    assert_same_answers(model, quantized)


ON_IMAGES = {
    "a vector over the width": ([node("Mul", "c k")], {"k": floats(WIDTH)}),
    "a constant over the width": ([node("Mul", "c k")], {"k": floats(1, 1, 1, WIDTH)}),
    "a constant over the height": ([node("Mul", "c k")], {"k": floats(1, 1, HEIGHT, 1)}),
    "a constant over channels and width": ([node("Mul", "c k")], {"k": floats(CHANNELS, 1, WIDTH)}),
    "a constant image": ([node("Add", "c k")], {"k": floats(1, CHANNELS, HEIGHT, WIDTH)}),
    "an image of one channel": ([node("ReduceMean", "c axes", "m"), node("Mul", "c m")], {"axes": ints(1)}),
    "an image of one column": ([node("ReduceMean", "c axes", "m"), node("Mul", "c m")], {"axes": ints(3)}),
    "images one below the other": ([node("Relu", "c", "r"), node("Concat", "c r", axis=2)], {}),
    "images side by side": ([node("Relu", "c", "r"), node("Concat", "c r", axis=-1)], {}),
    "maximum": ([node("MaxPool", kernel_shape=[2, 3])], {}),
    "padded maximum": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "maximum padded on two sides": ([node("MaxPool", kernel_shape=[2, 3], strides=[2, 3], pads=[0, 1, 1, 0])], {}),
    "maximum with named padding": ([node("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER")], {}),
    "dilated maximum": ([node("MaxPool", kernel_shape=[2, 3], dilations=[3, 2], strides=[1, 2])], {}),
    "maximum with a last window that reaches beyond": ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1)], {}),
    "padded maximum with a last window that reaches beyond": (
        [node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1)],
        {},
    ),
    "maximum with its places": ([node("MaxPool", "c", "y i", kernel_shape=[2, 2]), node("Cast", "i", "z", to=TensorProto.FLOAT)], {}),
    "padded mean": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "mean padded on one side": ([node("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 0, 1])], {}),
    "padded mean that counts the padding": ([node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}),
    "mean with a last window that reaches beyond": ([node("AveragePool", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)], {}),
    "mean with named padding": ([node("AveragePool", kernel_shape=[3, 3], auto_pad="SAME_LOWER")], {}),
    "mean over the image that drops its dimensions": ([node("ReduceMean", "c axes", keepdims=0)], {"axes": ints(2, 3)}),
    "mean over the channels": ([node("ReduceMean", "c axes")], {"axes": ints(1)}),
    "mean over columns": ([node("ReduceMean", "c axes")], {"axes": ints(3)}),
    "mean over channels and rows": ([node("ReduceMean", "c axes")], {"axes": ints(1, 2)}),
    "mean over all": ([node("ReduceMean", "c")], {}),
    "global maximum": ([node("GlobalMaxPool")], {}),
    "softmax over the width": ([node("Softmax", axis=3)], {}),
    "an image flattened": ([node("Flatten", axis=1)], {}),
    "an image in another shape": ([node("Reshape", "c shape")], {"shape": ints(0, CHANNELS, HEIGHT * WIDTH, 1)}),
    "cubic interpolation": ([resize("scales", mode="cubic")], {"scales": np.float32([1, 1, 2, 2])}),
    "the nearest pixel of channels too": ([resize("scales")], {"scales": np.float32([1, 2, 2, 2])}),
    "interpolation without aliasing": ([resize("scales", mode="linear", antialias=1)], {"scales": np.float32([1, 1, 0.5, 0.5])}),
    "a size that keeps proportions": ([resize("", "sizes", axes=[2, 3], keep_aspect_ratio_policy="not_larger")], {"sizes": ints(3, 12)}),
    "a part of an image": (
        [node("Resize", "c roi scales", coordinate_transformation_mode="tf_crop_and_resize")],
        {"roi": np.float32([0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8]), "scales": np.float32([1, 1, 2, 2])},
    ),
    "a turned image": ([node("Transpose", perm=[0, 1, 3, 2])], {}),
}


@pytest.mark.parametrize(("nodes", "constants"), ON_IMAGES.values(), ids=ON_IMAGES)
def test_what_has_another_meaning_on_rows_stays_on_images(nodes, constants):
    outputs = ("y", "z") if any("z" in found.output for found in nodes) else ("y",)
    model = build(nodes, constants, outputs=outputs)
    quantized = quantize(model)
    assert not works_on_rows(quantized)
    assert_same_answers(model, quantized)


@pytest.mark.parametrize(("kernel", "strides"), [([2, 3], [3, 3]), ([1, 2], [1, 4])], ids=["below", "on the right"])
def test_a_last_window_that_begins_beyond_the_image_is_refused(kernel, strides):
    """Inference of shapes counts it before operator set 22; ONNX Runtime and PyTorch never do."""
    pool = node("MaxPool", kernel_shape=kernel, strides=strides, ceil_mode=1)
    with pytest.raises(ExportError, match=r"MaxPool y: with ceil_mode, its last window begins beyond the image.*operator set 22"):
        quantize_dynamic_int8(build([pool]))
    model = build([pool], opset=22)
    assert_same_answers(model, quantize(model))


@pytest.mark.parametrize("flatten", [[node("Flatten", "m")], [node("Reshape", "m shape")]], ids=["Flatten", "Reshape"])
def test_a_single_pixel_is_flattened_without_turning_back(flatten):
    model = build([node("GlobalAveragePool", "c", "m"), *flatten], {"shape": ints(0, -1)})
    quantized = quantize(model)
    operators = [found.op_type for found in quantized.model.graph.node]
    assert (operators.count("Transpose"), operators[-2:]) == (1, ["MatMul", "Reshape"])
    assert_same_answers(model, quantized)


def test_two_pixels_are_flattened_channel_by_channel():
    pool = node("AveragePool", "c", "m", kernel_shape=[HEIGHT, WIDTH // 2], strides=[1, WIDTH // 2])
    model = build([pool, node("Flatten", "m")])
    assert_same_answers(model, quantize(model))


def test_a_single_pixel_in_another_shape_than_a_row_stays_on_images():
    model = build([node("GlobalAveragePool", "c", "m"), node("Reshape", "m shape")], {"shape": ints(0, 4, 4)})
    assert_same_answers(model, quantize(model))


def test_an_operator_of_another_domain_only_shares_its_name():
    """A function of the file's own that is called Relu and turns the sign."""
    negate = helper.make_function("own", "Relu", ["a"], ["b"], [node("Neg", "a", "b")], [helper.make_opsetid("", 20)])
    model = build([node("Relu", "c", "y", domain="own")], functions=[negate])
    assert_same_answers(model, quantize(model))


def test_values_in_the_middle_may_be_outputs_too():
    model = build([node("Relu", "c", "r"), node("MaxPool", "r", kernel_shape=[2, 2])], outputs=("r", "y", "c"))
    quantized = quantize(model)
    assert [output.name for output in quantized.model.graph.output] == ["r", "y", "c"]
    assert_same_answers(model, quantized)


CONVOLUTIONS = {
    "as it is": {},
    "same": {"pads": [1, 1, 1, 1]},
    "padded on two sides": {"pads": [0, 2, 1, 0]},
    "strides that differ": {"strides": [2, 3], "pads": [1, 1, 1, 1]},
    "dilations that differ": {"dilations": [2, 3], "pads": [1, 3, 2, 0]},
}


@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("named", [True, False], ids=["kernel_shape", "by its weights"])
def test_a_convolution_reads_the_windows_that_its_attributes_say(kernel, named, attributes):
    attributes = attributes | ({"kernel_shape": kernel} if named else {})
    bias = GENERATOR.integers(-9, 9, 8).astype(np.float32)
    model = build([node("Conv", "x v b", **attributes)], {"v": whole_weights(8, CHANNELS, kernel), "b": bias}, outputs=("y", "c"))
    quantized = quantize(model)
    assert [layer.quantized for layer in quantized.layers] == [True, True]
    pixels = whole_pixels()
    for found, expected in zip(run(quantized.model, pixels), run(model, pixels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_network_with_its_channels_last_turns_no_image():
    """As TensorFlow's converters write it: each convolution between two transpositions, and what follows on channels that are last."""
    nodes = [
        node("Transpose", "c", "c_last", perm=[0, 2, 3, 1]),
        node("Add", "c_last k", "a"),
        node("Transpose", "a", "p", perm=[0, 3, 1, 2]),
        node("Conv", "p v", "d", kernel_shape=[3, 3], pads=[1] * 4),
        node("Transpose", "d", perm=[0, 2, 3, 1]),
    ]
    constants = {"k": GENERATOR.integers(0, 9, (1, 1, 1, CHANNELS)).astype(np.float32), "v": whole_weights(8, CHANNELS, (3, 3))}
    assert layers_of(nodes, constants) == [""]
    quantized = quantize(build(nodes, constants))
    assert [found.op_type for found in quantized.model.graph.node].count("Transpose") == 1  # of what the first layer reads


def test_an_image_that_was_turned_is_not_turned_back_for_a_layer_in_fp32():
    """It reads what the Transpose gives, beside a layer in INT8 that reads the same values as rows."""
    nodes = [
        node("Reshape", "x as_image", "image"),
        node("Transpose", "image", "p", perm=[0, 3, 1, 2]),
        node("Conv", "p stem", "s", kernel_shape=[3, 3], pads=[1] * 4),
        node("Conv", "p v", "t", kernel_shape=[1, 1]),
    ]
    constants = {"as_image": ints(0, HEIGHT, WIDTH, CHANNELS), "v": whole_weights(8, CHANNELS), "stem": whole_weights(4, CHANNELS, (3, 3))}
    model = build(nodes, constants, outputs=("s", "t", "c"))
    quantized = quantize_dynamic_int8(model, left={"s": "for a test"})
    (stem,) = [found for found in quantized.model.graph.node if found.op_type == "Conv"]
    assert stem.input[0] == "p"
    assert [found.op_type for found in quantized.model.graph.node].count("MatMulInteger") == 2
    assert_same_answers(model, quantized)


def float_product(kernel, outputs, inputs="c", **attributes):
    """Behind an exact layer a convolution that stays in FP32."""
    weights = GENERATOR.normal(size=(outputs, CHANNELS // attributes.get("group", 1), *kernel)).astype(np.float32)
    nodes = [node("Relu", "c", "r"), node("Conv", f"{inputs} v b", **attributes)]
    model = build(nodes, {"v": weights, "b": floats(outputs)}, outputs=("y",) if inputs == "r" else ("y", "r"))
    quantized = quantize_dynamic_int8(model, left={"y": "for a test"})
    assert_same_answers(model, quantized)
    return [found.op_type for found in quantized.model.graph.node]


@pytest.mark.parametrize("outputs", [4, CHANNELS])
def test_a_1x1_convolution_that_stays_in_fp32_is_a_product_of_the_rows_that_it_reads(outputs):
    operators = float_product((1, 1), outputs, "r")
    assert "Conv" not in operators
    assert (operators.count("MatMul"), operators.count("Transpose")) == (1, 2)


@pytest.mark.parametrize(
    ("kernel", "outputs", "inputs", "attributes"),
    [
        ((3, 3), 4, "r", {"pads": [1] * 4}),
        ((1, 1), CHANNELS + 1, "r", {}),
        ((1, 1), 4, "r", {"strides": [2, 2]}),
        ((1, 1), 4, "r", {"group": 2}),
        ((1, 1), 4, "x", {}),
    ],
    ids=["3x3", "more outputs than inputs", "strided", "grouped", "of images"],
)
def test_other_convolutions_that_stay_in_fp32_read_images(kernel, outputs, inputs, attributes):
    operators = float_product(kernel, outputs, inputs, **attributes)
    assert (operators.count("Conv"), operators.count("MatMul")) == (1, 0)


def test_the_mean_over_an_image_is_a_product_with_equal_weights():
    """ONNX Runtime's ReduceMean over rows takes ten times as long."""
    model = build([node("GlobalAveragePool")])
    quantized = quantize(model)
    operators = [found.op_type for found in quantized.model.graph.node]
    assert "ReduceMean" not in operators
    assert operators.count("MatMul") == 1
    assert_same_answers(model, quantized)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_between_images_and_rows_can_be_loaded(mode):
    """ONNX Runtime moves the transposition that follows to the one before the Resize, and cannot if that names its axes."""
    nodes = [
        node("Reshape", "x line", "l"),
        node("Transpose", "l", "t", perm=[0, 2, 1]),
        node("MatMul", "t m", "p"),
        node("Transpose", "p", "u", perm=[0, 2, 1]),
        node("Reshape", "u image", "g"),
        helper.make_node("Resize", ["g", "", "", "sizes"], ["r"], axes=[2, 3], mode=mode),
        node("Conv", "r v", "y", kernel_shape=[3, 3], pads=[1] * 4),
    ]
    constants = {"line": ints(0, CHANNELS, HEIGHT * WIDTH), "image": ints(0, CHANNELS, HEIGHT, WIDTH), "sizes": ints(9, 23)}
    constants |= {"m": whole_weights(CHANNELS, CHANNELS)[..., 0, 0], "v": whole_weights(8, CHANNELS, (3, 3))}
    model = build(nodes, constants, outputs=("y", "c"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3  # where the batch is open, it lets the nodes stand
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    quantized, pixels = quantize(model), whole_pixels()
    found, expected = (run(each, pixels)[0] for each in (quantized.model, model))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_a_network_of_turned_images_keeps_them_apart():
    nodes = [node("Transpose", "c", "t", perm=[0, 3, 1, 2]), node("Transpose", "t", "u", perm=[0, 3, 2, 1]), node("Relu", "u")]
    model = build(nodes)
    assert_same_answers(model, quantize(model))


def layers_of(nodes, constants, **options):
    """What became of the layers behind the first, and whether the answers are the same within what 8 bits allow."""
    model = build(nodes, constants, **options)
    quantized = quantize(model)
    pixels = whole_pixels()
    for found, expected in zip(run(quantized.model, pixels), run(model, pixels), strict=True):
        assert np.square(found - expected).mean() < 1e-3 * np.square(expected).mean()
    return [layer.reason for layer in quantized.layers[1:]]


# A layer that is not elementwise, so that the convolution before it is no neighbour of what follows.
APART = node("MaxPool", "c", "p", kernel_shape=[1, 1])


def test_convolutions_that_are_no_product_stay_and_say_why():
    assert layers_of([APART, node("Conv", "p v", group=8)], {"v": whole_weights(8, 2)}) == ["grouped: not one product"]
    assert layers_of([node("Conv", "c v", auto_pad="SAME_UPPER")], {"v": whole_weights(8, 16, (2, 2))}) == [""]
    computed = [node("Mul", "v two", "v2"), node("Conv", "c v2")]
    assert layers_of(computed, {"v": whole_weights(8, 16), "two": np.float32(2)}) == ["its weights are computed as the model runs"]
    infinite = whole_weights(8, CHANNELS)
    infinite[3, 3] = np.inf
    assert [layer.reason for layer in quantize(build([node("Conv", "c v")], {"v": infinite})).layers][1:] == [
        "its weights are not all finite numbers"
    ]
    deep = [node("Reshape", "c shape", "f"), node("Conv", "f v")]
    space = {"v": whole_weights(8, CHANNELS)[..., None], "shape": ints(0, CHANNELS, HEIGHT, 4, WIDTH // 4)}
    assert layers_of(deep, space) == ["windows of 3 dimensions, not 1 or 2"]


TRANSPOSED = {
    "as large as its stride": (2, {"strides": [2, 2]}),
    "larger than its stride": (4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "padded at the end": (3, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "without a stride": (3, {"pads": [1, 0, 2, 0]}),
    "smaller than its stride": (1, {"strides": [3, 2], "output_padding": [2, 1]}),
    "with other strides across": (3, {"strides": [3, 1], "pads": [0, 1, 0, 1]}),
    "cut": (2, {"strides": [2, 2], "pads": [2, 1, 2, 1]}),
}


@pytest.mark.parametrize(("kernel", "attributes"), TRANSPOSED.values(), ids=TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "none"])
def test_a_transposed_convolution_is_a_product_whose_rows_are_several_pixels(kernel, attributes, bias):
    constants = {"v": whole_weights(8, CHANNELS, (kernel, kernel)).transpose(1, 0, 2, 3), "b": np.arange(8, dtype=np.float32)}
    model = build([node("ConvTranspose", "x v b" if bias else "x v", **attributes)], constants, outputs=("y", "c"))
    # Turned round, the weights are not such as cannot saturate.
    quantized = quantize_dynamic_int8(model, saturation_safe={"y"})
    assert [layer.quantized for layer in quantized.layers] == [True, True]
    pixels = whole_pixels()
    found, expected = run(quantized.model, pixels)[0], run(model, pixels)[0]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("attributes", [{"pads": [1] * 4}, {"strides": [2, 1], "dilations": [1, 2]}])
def test_two_groups_are_one_product(attributes):
    weights = whole_weights(10, CHANNELS // 2, (3, 3))
    model = build([node("Conv", "x v", group=2, **attributes)], {"v": weights}, outputs=("y", "c"))
    quantized = quantize(model)
    assert [layer.quantized for layer in quantized.layers] == [True, True]
    pixels = whole_pixels()
    np.testing.assert_array_equal(run(quantized.model, pixels)[0], run(model, pixels)[0])


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"group": 4}, "grouped: not one product"),
        ({"dilations": [2, 2]}, "transposed and dilated: not one product"),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, "transposed, with pads that follow from the size of the result"),
        ({"strides": [2, 2]}, "transposed, to a size that is no multiple of its stride"),
    ],
)
def test_a_transposed_convolution_that_is_no_product_says_why(attributes, reason):
    weights = whole_weights(8, CHANNELS, (3, 3)).transpose(1, 0, 2, 3)
    assert layers_of([node("ConvTranspose", "c v", **attributes)], {"v": weights}) == [reason]


LINE_SHAPE = {"shape": ints(0, CHANNELS, HEIGHT * WIDTH)}
LINE_CONVOLUTIONS = {
    "plain": {},
    "padded": {"pads": [2, 1]},
    "strided": {"strides": [3], "pads": [0, 2]},
    "dilated": {"dilations": [2]},
    "same": {"auto_pad": "SAME_LOWER", "strides": [2]},
}


@pytest.mark.parametrize("attributes", LINE_CONVOLUTIONS.values(), ids=LINE_CONVOLUTIONS)
@pytest.mark.parametrize("kernel", [1, 4])
def test_a_convolution_over_a_line_is_a_product_too(attributes, kernel):
    constants = LINE_SHAPE | {"v": whole_weights(8, CHANNELS, (1, kernel))[:, :, 0], "b": np.arange(8, dtype=np.float32)}
    model = build([node("Reshape", "x shape", "l"), node("Conv", "l v b", **attributes)], constants, outputs=("y", "c"))
    quantized = quantize(model)
    assert [layer.quantized for layer in quantized.layers] == [True, True]
    pixels = whole_pixels()
    np.testing.assert_array_equal(run(quantized.model, pixels)[0], run(model, pixels)[0])


BEHIND_A_LINE = {
    "elementwise": [node("Relu", "d")],
    "a constant per channel": [node("Mul", "d k")],
    "two lines": [node("Relu", "d", "r"), node("Add", "d r")],
    "a norm": [node("BatchNormalization", "d g g g g")],
    "mean": [node("GlobalAveragePool", "d")],
    "a gate": [node("GlobalAveragePool", "d", "m"), node("Sigmoid", "m", "s"), node("Mul", "d s")],
}
BESIDE_A_LINE = {
    "a vector over the line": [node("Mul", "d w_long")],
    "mean over channels and line": [node("ReduceMean", "d axes")],
    "a pool": [node("MaxPool", "d", kernel_shape=[2])],
    "joined lines": [node("Concat", "d d", axis=1)],
    "an image of lines": [node("Unsqueeze", "d axis", "u"), node("Add", "u d")],
}


@pytest.mark.parametrize("nodes", [*BEHIND_A_LINE.values(), *BESIDE_A_LINE.values()], ids=[*BEHIND_A_LINE, *BESIDE_A_LINE])
def test_what_follows_on_a_line_means_the_same(nodes):
    constants = LINE_SHAPE | {"v": whole_weights(CHANNELS, CHANNELS, (1, 1))[:, :, 0], "k": floats(CHANNELS, 1), "g": floats(CHANNELS)}
    constants |= {"w_long": floats(HEIGHT * WIDTH), "axes": ints(-1, -2), "axis": ints(1)}
    model = build([node("Reshape", "x shape", "l"), node("Conv", "l v", "d"), *nodes], constants, outputs=("y", "c"))
    quantized = quantize(model)
    assert_same_answers(model, quantized)
    assert works_on_rows(quantized) == (nodes in BEHIND_A_LINE.values())


@pytest.mark.parametrize(("channels", "reason"), [(15, "15 input channels: rows too short"), (16, "")])
def test_rows_of_sixteen_channels_are_long_enough(channels, reason):
    narrow = [node("Conv", "c narrow", "n"), node("Conv", "n v")]
    assert layers_of(narrow, {"narrow": whole_weights(channels, 16), "v": whole_weights(8, channels)}) == ["", reason]


TURNING = "beside a grouped convolution: turning the layout costs more"


@pytest.mark.parametrize(("outputs", "reason"), [(39, TURNING), (40, "")])
def test_a_layer_behind_a_grouped_convolution_needs_forty_products_a_value(outputs, reason):
    nodes = [APART, node("Conv", "p d", "g", group=16), node("Relu", "g", "r"), node("Add", "r one", "s"), node("Conv", "s v")]
    constants = {"d": whole_weights(16, 2)[:, :1], "one": np.float32(1), "v": whole_weights(outputs, 16)}
    assert layers_of(nodes, constants) == ["grouped: not one product", reason]


@pytest.mark.parametrize(("inputs", "reason"), [(39, TURNING), (40, "")])
def test_a_layer_before_a_grouped_convolution_needs_forty_products_a_value(inputs, reason):
    nodes = [node("Conv", "c wide", "a"), node("Conv", "a v", "b"), node("Relu", "b", "r"), node("Conv", "r d", group=16)]
    constants = {"wide": whole_weights(inputs, 16), "v": whole_weights(16, inputs), "d": whole_weights(16, 2)[:, :1]}
    assert layers_of(nodes, constants) == ["", reason, "grouped: not one product"]


def linear(gemm, weights, **constants):
    """A linear layer behind the global mean of more channels."""
    nodes = [node("Conv", "c wide", "a"), node("GlobalAveragePool", "a", "m"), node("Flatten", "m", "f"), *gemm]
    return nodes, {"wide": whole_weights(128, 16), "v": weights, **constants}


MATRIX = np.random.default_rng(5).normal(size=(128, 144)).astype(np.float32)
BIAS = np.random.default_rng(6).normal(size=144).astype(np.float32)
LINEAR_LAYERS = {
    "Gemm": ([node("Gemm", "f v b")], MATRIX, ""),
    "Gemm without bias": ([node("Gemm", "f v")], MATRIX, ""),
    "Gemm of the transposed matrix": ([node("Gemm", "f v b", transB=1)], MATRIX.T.copy(), ""),
    "Gemm with its defaults spelled out": ([node("Gemm", "f v b", alpha=1.0, beta=1.0, transA=0, transB=0)], MATRIX, ""),
    "alpha": ([node("Gemm", "f v b", alpha=0.25)], MATRIX, ""),
    "beta": ([node("Gemm", "f v b", beta=9.0)], MATRIX, ""),
    "no bias by beta": ([node("Gemm", "f v nothing", beta=0.0)], MATRIX, ""),
    "a bias that is computed and multiplied": (
        [node("ReduceMax", "f", "r", keepdims=0), node("Gemm", "f v r", beta=2.0)],
        MATRIX,
        "its bias is computed as the model runs, and multiplied (beta)",
    ),
    "transA": (
        [node("Transpose", "f", "t", perm=[1, 0]), node("Gemm", "t v b", transA=1)],
        MATRIX,
        "what it reads is turned round (transA)",
    ),
    "MatMul": ([node("MatMul", "f v")], MATRIX, ""),
    "MatMul of three dimensions": ([node("Unsqueeze", "f first", "u"), node("MatMul", "u v")], MATRIX, ""),
    "MatMul with the matrix in front": (
        [node("Transpose", "f", "t", perm=[1, 0]), node("MatMul", "v t")],
        MATRIX.T.copy(),
        "its weights are on the left",
    ),
    "MatMul of a stack": (
        [node("Unsqueeze", "f first", "u"), node("MatMul", "u v")],
        np.stack([MATRIX] * 3),
        "its weights have 3 dimensions, not 2",
    ),
    "MatMul of a stack of one": ([node("Unsqueeze", "f first", "u"), node("MatMul", "u v")], MATRIX[None], ""),
    "MatMul that adds a dimension": ([node("MatMul", "f v")], MATRIX[None], "its weights have 3 dimensions, not 2"),
    "as many weights as are worth it": ([node("MatMul", "f v")], MATRIX[:, :128].copy(), ""),
    "a column less": ([node("MatMul", "f v")], MATRIX[:, :127].copy(), "16,256 weights: too few to save anything"),
}


@pytest.mark.parametrize(("layer", "weights", "reason"), LINEAR_LAYERS.values(), ids=LINEAR_LAYERS)
def test_a_linear_layer_is_a_product_unless_it_is_more(layer, weights, reason):
    nodes, constants = linear(layer, weights, b=BIAS, first=ints(1), nothing=np.full(144, np.nan, np.float32))
    assert layers_of(nodes, constants)[-1] == reason


def test_weights_that_differ_in_shape_alone_are_two_constants():
    """Bytes are the same, so that a constant which is shared by its bytes alone would have one of the two shapes."""
    even = np.full((32, 16, 1, 1), 127 * 2.0**-14, np.float32)
    nodes = [node("Conv", "c up", "u"), node("Relu", "u", "r"), node("Conv", "r down")]
    model = build(nodes, {"up": even, "down": even.reshape(16, 32, 1, 1)})
    assert all(layer.quantized for layer in quantize(model).layers)


@pytest.mark.parametrize("nodes", [[node("Conv", "c k", pads=[1] * 4)], [node("AveragePool", kernel_shape=[3, 3])]], ids=["conv", "pool"])
def test_the_file_does_not_hold_the_row_numbers_of_many_windows(nodes):
    model = build(nodes, {"k": whole_weights(CHANNELS, CHANNELS, (3, 3))})
    quantized = quantize(model)
    numbers = [tensor for tensor in quantized.model.graph.initializer if tensor.data_type == TensorProto.INT32]
    assert numbers
    assert max(len(numpy_helper.to_array(tensor).ravel()) for tensor in numbers) <= 128 < 9 * HEIGHT * WIDTH


def branches(*names):
    """Convolutions of ``c`` with a Relu each."""
    return [found for name in names for found in (node("Conv", f"c w_{name} b_{name}", f"{name}_sum"), node("Relu", f"{name}_sum", name))]


READ_IN_INT8 = {
    "a pool": [node("Relu", "c", "r"), node("MaxPool", "r", "v", kernel_shape=[2, 3])],
    "a padded pool": [node("Relu", "c", "r"), node("MaxPool", "r", "v", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
    "a pool with named padding": [node("Relu", "c", "r"), node("MaxPool", "r", "v", kernel_shape=[2, 2], auto_pad="SAME_LOWER")],
    "a dilated pool": [node("Relu", "c", "r"), node("MaxPool", "r", "v", kernel_shape=[2, 3], dilations=[3, 2], strides=[1, 2])],
    "a pool whose last window reaches beyond": [
        node("Relu", "c", "r"),
        node("MaxPool", "r", "v", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1),
    ],
    "a pool behind a pool": [
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", "p", "v", kernel_shape=[2, 2]),
    ],
    "parts": [*branches("one", "two"), node("Concat", "one two one", "v", axis=1)],
    "parts that are pooled": [
        *branches("one", "two"),
        node("Concat", "one two", "p", axis=-3),
        node("MaxPool", "p", "v", kernel_shape=[3, 2]),
    ],
}


def read_in_int8(nodes, *others, outputs=("y",)):
    """What comes of ``c`` and is called ``v`` goes to a convolution to ``y``."""
    constants = {"w_one": whole_weights(CHANNELS, CHANNELS), "w_two": -whole_weights(CHANNELS, CHANNELS)}
    constants |= {f"b_{name}": np.linspace(-300, 100, CHANNELS).astype(np.float32) for name in ("one", "two")}
    constants["w_grouped"] = floats(CHANNELS, 1, 3, 3)
    joined = [len(found.input) for found in nodes if found.op_type == "Concat" and found.attribute[0].i in (1, -3)]
    constants["w_last"] = whole_weights(CHANNELS, CHANNELS * (joined[0] if joined else 1), (2, 2))
    return build([*nodes, node("Conv", "v w_last"), *others], constants, outputs=outputs)


def operators_on(model, kind):
    """Operators that read values of a type."""
    shaped = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in [*shaped.graph.value_info, *shaped.graph.output]}
    return {found.op_type for found in model.graph.node if found.input and types.get(found.input[0]) == kind}


@pytest.mark.parametrize("nodes", READ_IN_INT8.values(), ids=READ_IN_INT8)
def test_what_int8_convolutions_alone_read_is_pooled_and_put_together_after_rounding(nodes):
    """The numbers are those that rounding the floats gives, for which somebody else must ask."""
    quantized, of_floats = quantize(read_in_int8(nodes)).model, quantize(read_in_int8(nodes, outputs=("y", "v"))).model
    operators = {found.op_type for found in nodes} - {"Conv", "Relu"}
    assert operators <= operators_on(quantized, TensorProto.UINT8)
    assert not operators & operators_on(quantized, TensorProto.FLOAT)
    assert nodes[-1].op_type not in operators_on(of_floats, TensorProto.UINT8)
    pixels = whole_pixels()
    np.testing.assert_array_equal(run(quantized, pixels)[0], run(of_floats, pixels)[0])


def test_parts_without_anything_above_zero_are_zeros():
    model = read_in_int8([*branches("one", "two"), node("Concat", "one two", "v", axis=1)])
    for tensor in model.graph.initializer:
        if tensor.name.startswith("b_"):
            tensor.CopyFrom(numpy_helper.from_array(np.full(CHANNELS, -1e6, np.float32), tensor.name))
    np.testing.assert_array_equal(run(quantize(model).model, whole_pixels())[0], 0)


POOL = [node("Relu", "c", "r"), node("MaxPool", "r", "v", kernel_shape=[2, 2], strides=[2, 2])]
NEED_FLOATS = {
    "a sum reads it too": (POOL, [node("Add", "v v", "z")]),
    "a grouped convolution reads it too": (POOL, [node("Conv", "v w_grouped", "z", group=CHANNELS)]),
    "weights are made of it": (POOL, [node("Conv", "v v", "z")]),
    "its places are read": ([POOL[0], node("MaxPool", "r", "v i", kernel_shape=[2, 2])], [node("Cast", "i", "z", to=TensorProto.FLOAT)]),
    "a pool of it is read by a sum": (POOL, [node("MaxPool", "v", "p", kernel_shape=[2, 2]), node("Add", "p p", "z")]),
    "not all parts are above zero": ([*branches("one"), node("Concat", "one c", "v", axis=1)], []),
    "parts one below the other": ([*branches("one", "two"), node("Concat", "one two", "v", axis=2)], []),
}


@pytest.mark.parametrize(("nodes", "others"), NEED_FLOATS.values(), ids=NEED_FLOATS)
def test_what_somebody_needs_as_floats_is_rounded_last(nodes, others):
    model = read_in_int8(nodes, *others, outputs=("y", "z") if others else ("y",))
    quantized, pixels = quantize(model).model, whole_pixels()
    assert nodes[-1].op_type not in operators_on(quantized, TensorProto.UINT8)
    expected = run(model, pixels)[0]
    np.testing.assert_allclose(run(quantized, pixels)[0], expected, atol=0.02 * np.abs(expected).max())
