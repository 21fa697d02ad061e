"""Sliding windows over an image that is kept as rows: which rows a window reads.

An image of (C, H, W) as rows is (H*W, C): one row of C values a pixel, from left to right and top to bottom. A convolution or
pooling window is then a list of row numbers, and all windows of a layer are one constant table for a Gather.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Windows:
    """Where the windows of a layer lie.

    Attributes:
        height: Of the image.
        width: Of the image.
        kernel: Rows and columns of a window.
        strides: Between windows, down and across.
        pads: Above, left, below, right, as ONNX orders them; ``ceil_mode`` is expressed by larger ones.
        dilations: Between the pixels of a window.
    """

    height: int
    width: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def size(self) -> int:
        """Pixels in a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def output_size(self) -> tuple[int, int]:
        """Number of windows down and across."""
        above, left, below, right = self.pads
        return (
            _count(self.height + above + below, self.kernel[0], self.strides[0], self.dilations[0]),
            _count(self.width + left + right, self.kernel[1], self.strides[1], self.dilations[1]),
        )

    @property
    def count(self) -> int:
        """Number of windows."""
        down, across = self.output_size
        return down * across

    @property
    def is_identity(self) -> bool:
        """Whether every window is one pixel, in order."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def reads_padding(self) -> bool:
        """Whether any window reaches beyond the image."""
        y, x = self._positions()
        return bool((y < 0).any() or (y >= self.height).any() or (x < 0).any() or (x >= self.width).any())

    def rows(self) -> NDArray[np.int32]:
        """Row numbers (windows, size); a pixel beyond the image has the number after the last, ``height * width``."""
        lines, columns = self.lines_and_columns()
        return (lines + columns).reshape(-1, self.size).clip(max=self.height * self.width)

    def lines_and_columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """What the row numbers are sums of, and at most ``height * width``.

        Returns:
            The first row number of each line, (windows down, 1, kernel rows, 1), and the column of each pixel, (windows across, 1, kernel
            columns); beyond the image both are ``height * width``.
        """
        y, x = self._positions()
        beyond = self.height * self.width
        lines = np.where((y >= 0) & (y < self.height), y * self.width, beyond)
        columns = np.where((x >= 0) & (x < self.width), x, beyond)
        return lines[:, None, :, None].astype(np.int32), columns[:, None].astype(np.int32)

    def _positions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Image rows (windows down, kernel rows), and columns (windows across, kernel columns), that the windows read."""
        down, across = self.output_size
        y = np.arange(down)[:, None] * self.strides[0] - self.pads[0] + np.arange(self.kernel[0]) * self.dilations[0]
        x = np.arange(across)[:, None] * self.strides[1] - self.pads[1] + np.arange(self.kernel[1]) * self.dilations[1]
        return y, x


def _count(size: int, kernel: int, stride: int, dilation: int) -> int:
    return (size - (kernel - 1) * dilation - 1) // stride + 1
