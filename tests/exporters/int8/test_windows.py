import numpy as np
import pytest
import torch
from torch.nn import functional

from exporters.int8.windows import Windows

GEOMETRIES = [
    Windows(5, 7, (3, 3), pads=(1, 1, 1, 1)),
    Windows(6, 6, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    Windows(8, 5, (2, 3), strides=(1, 2)),
    Windows(9, 9, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    Windows(6, 8, (5, 1), pads=(2, 0, 2, 0)),
    Windows(4, 4, (1, 1), strides=(2, 2)),
]


@pytest.mark.parametrize("windows", GEOMETRIES)
def test_the_rows_are_those_of_unfold(windows):
    image = torch.arange(1.0, 1 + windows.height * windows.width).view(1, 1, windows.height, windows.width)
    unfolded = functional.unfold(image, windows.kernel, windows.dilations, windows.pads[:2], windows.strides)[0].T.numpy()
    rows = np.append(image.numpy().ravel(), 0)  # unfold pads with zero
    np.testing.assert_array_equal(rows[windows.rows()], unfolded)
    assert len(unfolded) == np.prod(windows.output_size)
    assert windows.reads_padding == bool((unfolded == 0).any())


def test_one_pixel_in_order_is_the_identity():
    assert Windows(4, 4, (1, 1)).is_identity
    assert not any(windows.is_identity for windows in GEOMETRIES)


def test_padding_may_differ_on_every_side():
    windows = Windows(2, 2, (2, 2), pads=(1, 0, 0, 1))
    np.testing.assert_array_equal(windows.rows(), [[4, 4, 0, 1], [4, 4, 1, 4], [0, 1, 2, 3], [1, 4, 3, 4]])
