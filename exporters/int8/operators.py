"""How each operator works on rows. What is not here stays as it is, on NCHW."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from exporters.int8.layout import LEVELS, Attribute, ImageShape, Layout, Quantized
from exporters.int8.resizing import Resizing
from exporters.int8.windows import Windows

Emitter = Callable[[Layout, ir.Node], bool]

# One value in, one value out, position by position: the layout does not matter to them.
ELEMENTWISE: Final = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Sigmoid", "Softplus", "Tanh", "Identity"}
)
# Orders in which a Transpose makes NHWC of NCHW, and NCHW of NHWC.
CHANNELS_LAST: Final = [0, 2, 3, 1]
CHANNELS_FIRST: Final = [0, 3, 1, 2]
ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul", "Div"})


def keep_rows(layout: Layout, node: ir.Node) -> bool:
    """Let a node work on rows if its input is there and it can; say whether it does."""
    emitter = _EMITTERS.get(node.op_type) if not node.domain else None
    return emitter is not None and emitter(layout, node)


def windows_of(node: ir.Node) -> Windows | None:
    """Geometry of a convolution or pooling node, or None if it is of unknown size or has more than two dimensions; or one, if it pools."""
    shape = ImageShape.of_image_or_line(first_input(node))
    kernel: Sequence[int] | None = node.attributes.get_ints("kernel_shape", None)
    if kernel is None and node.op_type == "Conv" and (weights := constant_array(node.inputs[1])) is not None:
        kernel = weights.shape[2:]
    if shape is None or kernel is None or len(kernel) != 2 - shape.is_line or (shape.is_line and node.op_type != "Conv"):
        return None
    kernel = _pair(kernel)
    above, left, below, right = _pads(node, shape, kernel)
    if node.attributes.get_int("ceil_mode", 0):
        # The last window may begin inside the image and end beyond it: as if there were more padding below and right.
        output = ImageShape.of(node.outputs[0])
        if output is None:
            return None
        down, across = node.attributes.get_ints("strides", [1, 1])
        if (output.height - 1) * down >= shape.height + above or (output.width - 1) * across >= shape.width + left:
            raise ExportError(
                f"{node.op_type} {name_of(node)}: with ceil_mode, its last window begins beyond the image, which operator sets before 22 "
                "count and ONNX Runtime does not; fix: export the model with operator set 22 or later"
            )
        below = max(below, (output.height - 1) * down + kernel[0] - shape.height - above)
        right = max(right, (output.width - 1) * across + kernel[1] - shape.width - left)
    return Windows(
        height=shape.height,
        width=shape.width,
        kernel=kernel,
        strides=_pair(node.attributes.get_ints("strides", [1, 1])),
        pads=(above, left, below, right),
        dilations=_pair(node.attributes.get_ints("dilations", [1, 1])),
    )


def _pads(node: ir.Node, shape: ImageShape, kernel: Sequence[int]) -> Sequence[int]:
    """Above, left, below, right. ``auto_pad`` SAME makes as many windows as strides fit in; the odd row is at the end that it names."""
    how = node.attributes.get_string("auto_pad", "NOTSET")
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        given = [0, 0, 0, 0] if how == "VALID" else node.attributes.get_ints("pads", [0, 0, 0, 0])
        return given if len(given) == 4 else [0, given[0], 0, given[1]]
    strides, dilations = (_pair(node.attributes.get_ints(name, [1, 1])) for name in ("strides", "dilations"))
    before, after = [], []
    for axis, size in enumerate((shape.height, shape.width)):
        reach = (-(-size // strides[axis]) - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(0, reach - size)
        smaller, larger = total // 2, total - total // 2
        before.append(smaller if how == "SAME_UPPER" else larger)
        after.append(larger if how == "SAME_UPPER" else smaller)
    return [*before, *after]


def constant_array(value: ir.Value | None) -> NDArray[np.float32] | None:
    """Content of a constant float32 value, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def first_input(node: ir.Node) -> ir.Value:
    """What a node works on."""
    value = node.inputs[0]
    if value is None:
        raise ExportError(f"{node.op_type} {node.name} has no input")
    return value


def name_of(node: ir.Node) -> str:
    """Name of a node's result, from which the names of what replaces it are made."""
    return node.outputs[0].name or node.op_type


def factor_and_offset(node: ir.Node) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """What a BatchNormalization multiplies each channel by and then adds; None if it takes the statistics of the images at hand."""
    parameters = [constant_array(value) for value in node.inputs[1:5]]
    if node.attributes.get_int("training_mode", 0) or len(node.outputs) > 1 or any(parameter is None for parameter in parameters):
        return None
    gain, offset, mean, variance = (parameter for parameter in parameters if parameter is not None)
    factor = gain / np.sqrt(variance + np.float32(node.attributes.get_float("epsilon", 1e-5)))
    return factor, offset - mean * factor


def _elementwise(layout: Layout, node: ir.Node) -> bool:
    if not layout.has_rows(first_input(node)):
        return False
    inputs = [layout.rows(first_input(node)), *node.inputs[1:]]
    _supersede(layout, node, node.op_type, inputs, node.attributes)
    return True


def _arithmetic(layout: Layout, node: ir.Node) -> bool:
    if not any(layout.has_rows(value) for value in node.inputs if value is not None):
        return False
    result = ImageShape.of_image_or_line(node.outputs[0])
    inputs = [_as_operand(layout, value, result) for value in node.inputs if value is not None]
    if any(value is None for value in inputs):
        return False
    _supersede(layout, node, node.op_type, inputs)
    return True


def _as_operand(layout: Layout, value: ir.Value, result: ImageShape | None) -> ir.Value | None:
    """A value as it broadcasts in rows: images become rows, constants per channel vectors, scalars stay."""
    constant = constant_array(value)
    if constant is not None:
        if constant.size == 1:
            return layout.constant(constant.reshape(()))
        axis = 3 if result is None or not result.is_line else 2
        per_channel = result is not None and constant.ndim >= axis and constant.size == constant.shape[-axis] == result.channels
        return layout.constant(constant.reshape(-1)) if per_channel else None
    shape = ImageShape.of_image_or_line(value)
    if shape is None or result is None or (shape != result and shape != ImageShape(result.channels, 1, 1, result.is_line)):
        return None
    return layout.rows(value)


def _concatenate(layout: Layout, node: ir.Node) -> bool:
    inputs = [value for value in node.inputs if value is not None]
    on_channels = node.attributes.get_int("axis", 0) in (1, -3)
    if not on_channels or not any(map(layout.has_rows, inputs)) or any(ImageShape.of(value) is None for value in inputs):
        return False
    rectified = [rows for value in inputs if (rows := _rows_before_relu(layout, value)) is not None]
    if layout.needs_no_floats(node.outputs[0]) and len(rectified) == len(inputs):
        _concatenate_quantized(layout, node, rectified)
        return True
    _supersede(layout, node, "Concat", [layout.rows(value) for value in inputs], {"axis": 2})
    return True


def _rows_before_relu(layout: Layout, value: ir.Value) -> ir.Value | None:
    """Rows of what a Relu reads, if a value comes from one and they are there."""
    node = value.producer()
    if node is None or node.op_type != "Relu" or node.domain or not layout.has_rows(first_input(node)):
        return None
    return layout.rows(first_input(node))


def _concatenate_quantized(layout: Layout, node: ir.Node, parts: Sequence[ir.Value]) -> None:
    """Parts behind a Relu, each rounded with the scale of all: the numbers that rounding the whole gives.

    Bytes are moved in place of floats, and rounding to the range above zero is the Relu too: two parts of 55x55 pixels and 64 channels take
    0.21 ms, as floats 0.30 (AVX512-VNNI, one thread).
    """
    name = f"{name_of(node)}/rows"
    highest = [layout.emit("ReduceMax", [part], {"keepdims": 0}, name=f"{name}/highest") for part in parts]
    # All may be zero or less.
    least = layout.scalar(np.float32(np.finfo(np.float32).tiny * LEVELS), "least")
    top = layout.emit("Max", [*highest, least], name=f"{name}/top")
    scale = layout.emit("Div", [top, layout.scalar(np.float32(LEVELS), "levels")], name=f"{name}/scale")
    zero = layout.scalar(np.uint8(0), "zero")
    rounded = [layout.emit("QuantizeLinear", [part, scale, zero], name=f"{name}/rounded") for part in parts]
    whole = layout.emit("Concat", rounded, {"axis": 2}, name=f"{name}/quantized")
    layout.supersede_quantized(node.outputs[0], Quantized(whole, scale, zero))


def _normalize(layout: Layout, node: ir.Node) -> bool:
    found = factor_and_offset(node) if layout.has_rows(first_input(node)) else None
    if found is None:
        return False
    factor, offset = (layout.constant(part) for part in found)
    scaled = layout.emit("Mul", [layout.rows(first_input(node)), factor], name=f"{name_of(node)}/scaled")
    _supersede(layout, node, "Add", [scaled, offset])
    return True


def _max_pool(layout: Layout, node: ir.Node) -> bool:
    """Of rows in 8 bits, where that is what is read: the largest is the same before rounding and after.

    Floats are pooled on NCHW, turned there and back: 3x3 windows on 28x28 pixels of 192 channels take 0.42 ms, with gathered rows 1.22
    (AVX2, one thread); with AVX512-VNNI 0.13 ms, and 0.04 in 8 bits, for which ONNX Runtime has a kernel that wants the channels last.

    Raises:
        ExportError: If its windows are not those that shapes were inferred with.
    """
    value, result = first_input(node), node.outputs[0]
    if windows_of(node) is None or not layout.needs_no_floats(result) or not layout.has_rows(value):
        return False
    before, after, name = layout.shape(value), layout.shape(result), f"{name_of(node)}/rows"
    quantized = layout.quantized_rows(value)
    image = _as_image(layout, quantized.values, before, f"{name}/image")
    turned = layout.emit("Transpose", [image], {"perm": CHANNELS_FIRST}, name=f"{name}/turned")
    settings: Mapping[str, Any] = node.attributes
    pooled = layout.emit("MaxPool", [turned], settings, name=f"{name}/pooled")
    turned_back = layout.emit("Transpose", [pooled], {"perm": CHANNELS_LAST}, name=f"{name}/turned_back")
    rows = layout.emit("Reshape", [turned_back, layout.constant([0, after.pixels, after.channels])], name=f"{name}/quantized")
    layout.supersede_quantized(result, quantized._replace(values=rows))
    return True


def _average_pool(layout: Layout, node: ir.Node) -> bool:
    value = first_input(node)
    windows = windows_of(node) if layout.has_rows(value) else None
    # At the border of a padded image the divisor differs from window to window.
    if windows is None or windows.reads_padding:
        return False
    if windows.kernel == (windows.height, windows.width):
        return _global_average(layout, node)
    pixels = layout.emit("Gather", [layout.rows(value), layout.table(windows)], {"axis": 1}, name=f"{name_of(node)}/pixels")
    shape = layout.constant([0, windows.count, windows.size, layout.shape(value).channels])
    columns = layout.emit("Reshape", [pixels, shape], name=f"{name_of(node)}/windows")
    _supersede(layout, node, "ReduceMean", [columns, layout.constant([2])], {"keepdims": 0})
    return True


def _global_average(layout: Layout, node: ir.Node) -> bool:
    """A product with equal weights.

    ONNX Runtime's ReduceMean over rows takes 399 us for 64 channels of 64x64 pixels and 77 us for 32x32, the product 32 and 16 (AVX2, one
    thread).
    """
    value = first_input(node)
    if not layout.has_rows(value):
        return False
    pixels = layout.shape(value).pixels
    share = layout.emit("Expand", [layout.scalar(np.float32(1 / pixels), "share"), layout.constant([1, pixels])], name="shares")
    _supersede(layout, node, "MatMul", [share, layout.rows(value)])
    return True


def _reduce_mean(layout: Layout, node: ir.Node) -> bool:
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    over_the_image = (
        axes is not None and ImageShape.of(first_input(node)) is not None and sorted(int(axis) % 4 for axis in axes.numpy()) == [2, 3]
    )
    return bool(over_the_image and node.attributes.get_int("keepdims", 1)) and _global_average(layout, node)


def _resize(layout: Layout, node: ir.Node) -> bool:
    """On images with their channels last.

    ONNX Runtime interpolates those four times as fast (67 against 297 us from 64 channels of 32x32 to 64x64), and the nearest pixel is a
    copy of its row.
    """
    plan, value = Resizing.of(node), first_input(node)
    if plan is None:
        return False
    settings: dict[str, Attribute] = {"mode": plan.mode, **plan.settings}
    if not layout.has_rows(value) and "axes" not in node.attributes:
        return False
    if not layout.has_rows(value) and plan.mode == "linear":
        # ONNX Runtime 1.32 cannot load a Resize that names its axes before a Transpose, such as makes rows of what it gives.
        scales = layout.constant(np.concatenate([np.ones(2, np.float32), plan.scales]))
        resized = layout.emit("Resize", [value, None, scales], settings, name=name_of(node))
        resized.shape, resized.type = node.outputs[0].shape, node.outputs[0].type
        layout.replace(node.outputs[0], resized)
        return True
    before, after, name = plan.before, plan.after, name_of(node)
    image = _as_image(layout, layout.rows(first_input(node)), before, f"{name}/image")
    if plan.mode == "nearest":
        down, across = (layout.constant(places, "places") for places in plan.nearest())
        widened = layout.emit("Gather", [image, across], {"axis": 2}, name=f"{name}/widened")
        resized = layout.emit("Gather", [widened, down], {"axis": 1}, name=f"{name}/resized")
    else:
        scales = layout.constant(np.array([1, *plan.scales, 1], np.float32))
        resized = layout.emit("Resize", [image, None, scales], settings, name=f"{name}/resized")
    _supersede(layout, node, "Reshape", [resized, layout.constant([0, after.pixels, after.channels])])
    return True


def _transpose(layout: Layout, node: ir.Node) -> bool:
    """Rows are images with their channels last but for their shape: what turns one into the other need not move a value."""
    value, order = first_input(node), list(node.attributes.get_ints("perm", []))
    if order == CHANNELS_LAST and layout.has_rows(value):
        layout.replace(node.outputs[0], _as_image(layout, layout.rows(value), layout.shape(value), name_of(node)))
        return True
    result = ImageShape.of(node.outputs[0])
    if order == CHANNELS_FIRST and result is not None and not layout.has_rows(value) and value.dtype == ir.DataType.FLOAT:
        _supersede(layout, node, "Reshape", [value, layout.constant([0, result.pixels, result.channels])])
        # Whoever wants NCHW reads what the Transpose gives, in place of rows that are turned back.
        layout.keep_nchw(node.outputs[0])
        return True
    return False


def _flatten(layout: Layout, node: ir.Node) -> bool:
    """A single pixel as (N, channels): the same numbers in the same order in both forms."""
    value, result = first_input(node), node.outputs[0].shape
    if not layout.has_rows(value) or layout.shape(value).pixels > 1 or result is None or len(result) != 2:
        return False
    if result[1] != layout.shape(value).channels:
        return False  # such as (1, N * channels)
    flat = layout.emit("Reshape", [layout.rows(value), layout.constant([0, layout.shape(value).channels])], name=name_of(node))
    layout.replace(node.outputs[0], flat)
    return True


def _as_image(layout: Layout, rows: ir.Value, shape: ImageShape, name: str) -> ir.Value:
    """Rows as an image with its channels last."""
    return layout.emit("Reshape", [rows, layout.constant([0, shape.height, shape.width, shape.channels])], name=name)


def _supersede(
    layout: Layout, node: ir.Node, operator: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
) -> None:
    layout.supersede(node.outputs[0], layout.emit(operator, inputs, attributes, name=f"{name_of(node)}/rows"))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Down and across; of a line there is only the second."""
    first, second = values if len(values) == 2 else (1, *values)
    return first, second


_EMITTERS: Final[Mapping[str, Emitter]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    "Concat": _concatenate,
    "BatchNormalization": _normalize,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "ReduceMean": _reduce_mean,
    "Resize": _resize,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _flatten,
}
