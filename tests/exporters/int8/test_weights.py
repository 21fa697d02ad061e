import numpy as np
import pytest

from exporters.int8.weights import quantize_columns, saturation_db

MATRIX = np.random.default_rng(0).normal(size=(201, 5)).astype(np.float32) * np.float32([1, 10, 0.1, 1e-6, 0])


def test_every_column_has_its_own_grid():
    quantized = quantize_columns(MATRIX)
    assert quantized.values.dtype == np.int8
    np.testing.assert_array_equal(np.abs(quantized.values.astype(int)).max(0), [127, 127, 127, 127, 0])
    error = np.abs(quantized.values * quantized.scales - MATRIX)
    assert (error < quantized.scales).all()
    assert np.sqrt(np.square(error / quantized.scales).mean(0))[:4].max() < 1.1 / 12**0.5


def test_rounding_errors_cancel_over_windows_and_columns():
    matrix = np.random.default_rng(1).normal(size=(9 * 32, 20)).astype(np.float32)
    quantized = quantize_columns(matrix, positions=9)
    error = (quantized.values - matrix / quantized.scales).reshape(9, 32, 20)
    assert np.abs(error.sum(axis=(0, 1))).max() <= 0.5001
    windows = np.abs(error.sum(axis=0))
    assert (windows <= 0.5001).mean() > 0.9
    assert windows.max() <= 1.5001
    nearest = np.rint(matrix / quantized.scales) - matrix / quantized.scales
    assert np.abs(nearest.sum(axis=0)).max() > 2, "rounding to the nearest would not"


def test_safe_weights_cannot_saturate_with_any_activations():
    quantized = quantize_columns(MATRIX, saturation_safe=True)
    values = np.append(quantized.values, np.zeros((1, 5), np.int8), axis=0).astype(int)
    for chosen in (values.clip(0), values.clip(max=0)):
        assert np.abs(255 * (chosen[0::2] + chosen[1::2])).max() < 2**15
    full = quantize_columns(MATRIX).scales
    assert (quantized.scales >= full).all()
    assert quantized.scales[0] > full[0]
    assert (quantized.scales[:4] < 2 * full[:4]).all(), "as coarse as 7 bits"


@pytest.mark.parametrize("sign", [1, -1])
def test_saturation_is_computed_as_the_processor_does(sign):
    values = sign * np.int8([[127, 1], [127, -1], [5, 3], [127, 0], [-127, 0]])
    rows = np.uint8([[255, 255, 10, 255, 255], [128, 0, 1, 2, 3]])
    exact = rows.astype(int) @ values.astype(int)
    saturated = exact.copy()
    saturated[0, 0] = sign * (2**15 - (sign > 0)) + rows[0, 2:].astype(int) @ values[2:, 0].astype(int)
    noise, power = np.square(exact - saturated).mean(0), np.square(exact.astype(float)).mean(0)
    assert saturation_db(rows, 0, values) == pytest.approx(-10 * np.log10((noise / power).mean()))
    assert saturation_db(rows[1:], 0, values) == float("inf")
    # What the zero point takes off is not in the 16-bit sums, but it is in the result.
    assert saturation_db(rows, 60, values) < saturation_db(rows, 0, values)
