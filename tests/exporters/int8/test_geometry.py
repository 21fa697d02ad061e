"""Windows, layouts and paddings of any size against PyTorch's convolutions and poolings."""

import numpy as np
import onnx
import onnxruntime
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from exporters.int8.quantize import quantize_dynamic_int8
from exporters.int8.windows import Windows

CHANNELS = 16


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def geometries(draw):
    """Windows of which at least one fits, on images that are rarely square."""
    height, width = draw(pairs(1, 9))
    pads = (draw(pairs(0, 3)), draw(pairs(0, 3)))
    windows = Windows(
        height,
        width,
        draw(pairs(1, 4)),
        strides=draw(pairs(1, 3)),
        pads=(pads[0][0], pads[1][0], pads[0][1], pads[1][1]),
        dilations=draw(pairs(1, 3)),
    )
    assume(min(windows.output_size) >= 1)
    return windows


def pad(images, windows, value):
    above, left, below, right = windows.pads
    return functional.pad(images, (left, right, above, below), value=value)


@given(geometries())
def test_rows_are_those_that_unfold_reads(windows):
    image = torch.arange(1.0, 1 + windows.height * windows.width).view(1, 1, windows.height, windows.width)
    unfolded = functional.unfold(pad(image, windows, 0), windows.kernel, windows.dilations, 0, windows.strides)[0].T.numpy()
    np.testing.assert_array_equal(np.append(image.numpy(), 0)[windows.rows()], unfolded)
    assert np.prod(windows.output_size) == len(unfolded)
    assert windows.reads_padding == bool((unfolded == 0).any())
    if min(windows.height, windows.width) > 1:
        in_order = np.arange(windows.height * windows.width)[:, None]
        assert windows.is_identity == np.array_equal(windows.rows(), in_order)


def answer(nodes, weights, images, opset=20):
    """What the quantized form of a network makes of images, and how its layers were computed."""
    tensors = [numpy_helper.from_array(weights, "w")]
    given_images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *images.shape[1:]])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [given_images], [end], tensors)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))
    quantized = quantize_dynamic_int8(model)
    assert quantized.layers[0].quantized
    session = onnxruntime.InferenceSession(quantized.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images.numpy()})[0]


def whole_images(windows):
    """0 to 255, so that nothing is rounded."""
    images = torch.randint(0, 256, (2, CHANNELS, windows.height, windows.width), generator=torch.Generator().manual_seed(1)).float()
    images[:, 0, 0, 0] = 255
    return images


@given(geometries(), st.integers(1, 5))
def test_a_convolution_of_whole_numbers_is_pytorchs_to_the_bit(windows, outputs):
    weights = torch.randint(-60, 61, (outputs, CHANNELS, *windows.kernel), generator=torch.Generator().manual_seed(2)).float()
    weights[:, 0, 0, 0], weights[:, 1, 0, 0] = 127, -60
    images = whole_images(windows)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=windows.strides, pads=windows.pads, dilations=windows.dilations)
    expected = functional.conv2d(pad(images, windows, 0), weights, None, windows.strides, 0, windows.dilations)
    np.testing.assert_array_equal(answer([node], weights.numpy(), images), expected.numpy())


@st.composite
def poolings(draw):
    """Attributes that ONNX and PyTorch both have: the same padding on both sides, at most half a window."""
    kernel = draw(pairs(1, 4))
    return {
        "kernel_size": kernel,
        "stride": draw(pairs(1, 4)),
        "padding": (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))),
    }


def pool(operator, pooling, image, **attributes):
    """Answer of a pooling node behind a layer that changes nothing."""
    identity = np.eye(CHANNELS, dtype=np.float32)[..., None, None] * 127
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(
            operator,
            ["c"],
            ["y"],
            kernel_shape=pooling["kernel_size"],
            strides=pooling["stride"],
            pads=2 * pooling["padding"],
            **attributes,
        ),
    ]
    return answer(nodes, identity, image, opset=22) / 127


def fits(windows, pooling):
    """Whether a window fits; PyTorch refuses what does not."""
    sizes = zip((windows.height, windows.width), pooling["padding"], pooling["kernel_size"], strict=True)
    return all(size + 2 * padding >= kernel for size, padding, kernel in sizes)


@given(geometries(), poolings(), st.booleans(), st.integers(1, 2))
def test_a_maximum_is_pytorchs(windows, pooling, ceil_mode, dilation):
    reach = pooling | {"kernel_size": tuple(dilation * (size - 1) + 1 for size in pooling["kernel_size"])}
    assume(fits(windows, reach))
    images = whole_images(windows)
    expected = functional.max_pool2d(images, **pooling, ceil_mode=ceil_mode, dilation=dilation)
    found = pool("MaxPool", pooling, images, ceil_mode=int(ceil_mode), dilations=[dilation, dilation])
    np.testing.assert_array_equal(found, expected.numpy())


@given(geometries(), poolings(), st.booleans())
def test_a_mean_is_pytorchs(windows, pooling, count_include_pad):
    assume(fits(windows, pooling))
    images = whole_images(windows)
    expected = functional.avg_pool2d(images, **pooling, count_include_pad=count_include_pad)
    found = pool("AveragePool", pooling, images, count_include_pad=int(count_include_pad))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
