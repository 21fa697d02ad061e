"""What a model reads: which of its inputs is the image, in what form, and what the others are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.errors import ExportError

NCHW: Final = "NCHW"
NHWC: Final = "NHWC"
ELEMENT_TYPES: Final[Mapping[int, str]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}
# Grey, RGB, and RGB with transparency.
CHANNELS: Final = (1, 3, 4)
BATCH_NAME: Final = "batch"
# Nodes that a value passes through with its layout kept.
_PASSED: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Cast", "Identity", "BatchNormalization", "InstanceNormalization", "Pad", "Clip", "Relu", "Resize"}
)

Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ImageTensor:
    """The input of a model that takes the images.

    Attributes:
        name: Of the input.
        element_type: ``float32``, ``float16`` or ``uint8``.
        layout: ``NCHW`` or ``NHWC``.
        channels: Of an image.
        height: Of an image, in pixels.
        width: Of an image, in pixels.
        batch: How many images a call takes; None where any number does.
    """

    name: str
    element_type: str
    layout: str
    channels: int
    height: int
    width: int
    batch: int | None

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """Shape of the input for a number of images."""
        image = (self.channels, self.height, self.width) if self.layout == NCHW else (self.height, self.width, self.channels)
        return (count, *image)

    def arrange(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (N, height, width, channels) in the layout and of the type of the input."""
        turned = images.transpose(0, 3, 1, 2) if self.layout == NCHW else images
        return np.ascontiguousarray(turned, self.element_type)


def bind_inputs(model: onnx.ModelProto, *, size: tuple[int, int] | None, fixed: Mapping[str, str | float]) -> ImageTensor:
    """Find the image among a model's inputs, give it its size and make constants of the other inputs, in the model itself.

    Nothing else of the model changes, so that it answers as it did for images of that size.

    Args:
        model: As read.
        size: Height and width, for a model that leaves them open.
        fixed: Value of each other input: a number, or numbers with commas between.

    Raises:
        ExportError: If there is no image among the inputs or more than one, a size is open and not given, or an input lacks a value.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in constants}
    if unknown := sorted(set(fixed) - set(inputs)):
        raise ExportError(f"--input {unknown[0]}: the model has no such input; it has {_list(inputs)}")
    candidates = [value for name, value in inputs.items() if name not in fixed and _looks_like_images(value)]
    if len(candidates) > 1:
        names = ", ".join(value.name for value in candidates)
        raise ExportError(f"the model has more than one input that takes images ({names}); fix: give the others with --input NAME=VALUE")
    if given := [name for name, value in inputs.items() if not candidates and name in fixed and _looks_like_images(value)]:
        raise ExportError(f"--input {given[0]}: no input is left that takes images; fix: leave it out, that one does")
    if not candidates:
        described = "; ".join(_describe(value) for value in inputs.values()) or "no input"
        raise ExportError(f"no input of the model takes images, (batch, channels, height, width) in float32, float16 or uint8: {described}")
    (value,) = candidates
    if missing := [name for name in inputs if name not in fixed and name != value.name]:
        raise ExportError(
            f"beside the images, {value.name}, the model reads {', '.join(missing)}; fix: give a value with --input {missing[0]}=VALUE"
        )
    for name, text in fixed.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(_parse_value(inputs[name], text), name))
    kept = [entry for entry in model.graph.input if entry.name not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return _bind_image(model, next(entry for entry in model.graph.input if entry.name == value.name), size)


def set_batch(model: onnx.ModelProto, image: ImageTensor, batch: int | None) -> None:
    """Write into a model how many images it takes at a time."""
    value = next(entry for entry in model.graph.input if entry.name == image.name)
    dimension = value.type.tensor_type.shape.dim[0]
    dimension.Clear()
    if batch is None:
        dimension.dim_param = BATCH_NAME
    else:
        dimension.dim_value = batch


def _bind_image(model: onnx.ModelProto, value: onnx.ValueInfoProto, size: tuple[int, int] | None) -> ImageTensor:
    dimensions = value.type.tensor_type.shape.dim
    shape = [dimension.dim_value if dimension.dim_value > 0 else None for dimension in dimensions]
    layout = _find_layout(model, value.name, shape)
    channel, height, width = (1, 2, 3) if layout == NCHW else (3, 1, 2)
    found = shape[height], shape[width]
    if size is None and None in found:
        sides = " x ".join("open" if side is None else str(side) for side in found)
        raise ExportError(f"the size of the images, {value.name}, is open (height x width: {sides}); fix: choose one with --size HxW")
    if size is not None and any(side not in (None, wanted) for side, wanted in zip(found, size, strict=True)):
        sides = " x ".join("any" if side is None else str(side) for side in found)
        raise ExportError(f"--size {size[0]}x{size[1]}: the images of the model, {value.name}, are of {sides} pixels (height x width)")
    channels = shape[channel] or _channels_read(model, value.name, layout)
    if channels is None:
        raise ExportError(f"the number of channels of the images, {value.name}, is open, and no convolution that reads them tells it")
    rows, columns = size or (found[0] or 0, found[1] or 0)
    for axis, length in ((channel, channels), (height, rows), (width, columns)):
        dimensions[axis].Clear()
        dimensions[axis].dim_value = length
    image = ImageTensor(
        name=value.name,
        element_type=ELEMENT_TYPES[value.type.tensor_type.elem_type],
        layout=layout,
        channels=channels,
        height=rows,
        width=columns,
        batch=shape[0],
    )
    set_batch(model, image, image.batch)
    return image


def _looks_like_images(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.elem_type in ELEMENT_TYPES and len(kind.shape.dim) == 4


def _find_layout(model: onnx.ModelProto, name: str, shape: list[int | None]) -> str:
    """By the first convolution or transposition that reads the images; where there is none, by which axis has a number of channels."""
    reader = _first_reader(model, name)
    if reader is not None and reader.op_type == "Conv":
        return NCHW
    if reader is not None and reader.op_type == "Transpose":
        order = next((list(attribute.ints) for attribute in reader.attribute if attribute.name == "perm"), [])
        if order == [0, 3, 1, 2]:
            return NHWC
        if order == [0, 2, 3, 1]:
            return NCHW
    return NHWC if shape[3] in CHANNELS and shape[1] not in CHANNELS else NCHW


def _first_reader(model: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The convolution or transposition that reads a value first, behind what keeps its layout."""
    reached = {name}
    nodes: Sequence[onnx.NodeProto] = model.graph.node
    for node in nodes:
        if not node.input or reached.isdisjoint(node.input):
            continue
        if node.op_type in ("Conv", "Transpose"):
            return node
        if node.op_type in _PASSED:
            reached.add(node.output[0])
    return None


def _channels_read(model: onnx.ModelProto, name: str, layout: str) -> int | None:
    reader = _first_reader(model, name)
    if reader is None or reader.op_type != "Conv" or layout != NCHW:
        return None
    weights = next((tensor for tensor in model.graph.initializer if tensor.name == reader.input[1]), None)
    groups = next((attribute.i for attribute in reader.attribute if attribute.name == "group"), 1)
    return None if weights is None else weights.dims[1] * groups


def _parse_value(value: onnx.ValueInfoProto, given: str | float) -> NDArray[Any]:
    """An input's constant: the numbers in the shape that the model declares, one number for all places of it."""
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        words = str(given).split(",")
        numbers = [{"true": 1.0, "false": 0.0}.get(word.strip().lower()) for word in words]
        array = np.array([float(word) if number is None else number for word, number in zip(words, numbers, strict=True)]).astype(dtype)
    except (KeyError, ValueError) as error:
        raise ExportError(f"--input {value.name}={given}: not a number, or numbers with commas between") from error
    declared = [max(dimension.dim_value, 0) or None for dimension in kind.shape.dim]
    if len(array) == 1:
        return np.full([length or 1 for length in declared], array[0])
    open_length = len(array) // max(1, math.prod(length or 1 for length in declared))
    shape = [open_length if length is None and declared.index(None) == axis else length or 1 for axis, length in enumerate(declared)]
    if math.prod(shape) != len(array):
        raise ExportError(f"--input {value.name}={given}: {len(array)} numbers for an input of the shape {_describe(value)}")
    return array.reshape(shape)


def _describe(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    shape = ", ".join(dimension.dim_param or str(dimension.dim_value) for dimension in kind.shape.dim)
    described = f"({shape})" if kind.HasField("shape") else "of no declared shape"
    return f"{value.name} ({onnx.TensorProto.DataType.Name(kind.elem_type).lower()}, {described})"


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"
