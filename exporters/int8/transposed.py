"""A transposed convolution as an ordinary one whose results are several pixels each."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layout import ImageShape
from exporters.int8.windows import Windows


@dataclass(frozen=True)
class SpreadConvolution:
    """Every window of it gives ``spread`` pixels, lines by columns: as many as the strides of the transposed convolution.

    Attributes:
        matrix: float32 (window size * inputs, spread pixels * outputs).
        windows: Of the image that the transposed convolution reads.
        spread: Lines and columns.
    """

    matrix: NDArray[np.float32]
    windows: Windows
    spread: tuple[int, int]


def spread_convolution(node: ir.Node, weights: NDArray[np.float32], before: ImageShape, after: ImageShape) -> SpreadConvolution | str:
    """A ConvTranspose as such, or the reason why not.

    Pixel ``stride * q + r`` of the result is a sum over the pixels ``q + j`` of the image, each times the weight ``r + pad - stride * j``
    of the kernel: for each of the ``stride`` remainders ``r`` an ordinary convolution over ``q``, and all of them read the same windows.

    Args:
        node: The layer.
        weights: (inputs, outputs, kernel lines, kernel columns).
        before: Shape of what it reads.
        after: Of its result.
    """
    strides = node.attributes.get_ints("strides", [1, 1])
    pads = node.attributes.get_ints("pads", [0, 0, 0, 0])
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        return "transposed, with pads that follow from the size of the result"
    if any(dilation != 1 for dilation in node.attributes.get_ints("dilations", [1, 1])):
        return "transposed and dilated: not one product"
    if after.height % strides[0] or after.width % strides[1]:
        return "transposed, to a size that is no multiple of its stride"
    (above, lines), (left, columns) = (_taps(*axis) for axis in zip(weights.shape[2:], strides, pads[:2], strict=True))
    matrix = np.zeros((len(lines), len(columns), len(weights), *strides, weights.shape[1]), np.float32)
    for down, line in enumerate(lines):
        for across, column in enumerate(columns):
            for y, x in ((y, x) for y in range(strides[0]) for x in range(strides[1]) if line[y] is not None and column[x] is not None):
                matrix[down, across, :, y, x] = weights[:, :, line[y], column[x]]
    size = (after.height // strides[0], after.width // strides[1])
    windows = Windows(
        height=before.height,
        width=before.width,
        kernel=(len(lines), len(columns)),
        pads=(above, left, size[0] + len(lines) - 1 - above - before.height, size[1] + len(columns) - 1 - left - before.width),
    )
    flat = matrix.reshape(windows.size * len(weights), -1)
    return SpreadConvolution(flat, windows, (strides[0], strides[1]))


def _taps(kernel: int, stride: int, pad: int) -> tuple[int, list[list[int | None]]]:
    """Along one axis: how far before ``q`` a window begins, and for each of its pixels the place in the kernel for each remainder."""
    first, last = -((kernel - 1 - pad) // stride), (stride - 1 + pad) // stride
    places = [[remainder + pad - stride * j for remainder in range(stride)] for j in range(first, last + 1)]
    return -first, [[place if 0 <= place < kernel else None for place in line] for line in places]
