import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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


MATRICES = arrays(
    np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(-999, 999).map(lambda whole: whole / 128)
)


@given(MATRICES)
def test_no_weight_is_off_by_a_step_and_no_column_by_more_than_half(matrix):
    quantized = quantize_columns(matrix)
    np.testing.assert_allclose(quantized.scales, np.where(matrix.any(0), np.abs(matrix).max(0) / 127, 1), rtol=1e-6)
    errors = quantized.values.astype(np.float64) - matrix.astype(np.float64) / quantized.scales
    assert np.abs(errors).max() < 1
    assert np.abs(errors.sum(0)).max() <= 0.5 + 1e-4


@given(MATRICES)
def test_a_pair_of_safe_weights_stays_within_sixteen_bits(matrix):
    values = quantize_columns(matrix, saturation_safe=True).values.astype(int)
    values = np.concatenate([values, np.zeros((len(values) % 2, values.shape[1]), int)])
    for sign in (1, -1):
        assert 255 * (np.maximum(sign * values[0::2], 0) + np.maximum(sign * values[1::2], 0)).max() < 2**15


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 4), st.just(6))),
    st.integers(0, 255),
    arrays(np.int8, st.tuples(st.just(6), st.integers(1, 3)), elements=st.integers(-127, 127)),
)
def test_the_loss_by_saturation_is_that_of_a_plain_count(rows, zero_point, values):
    lost, exact = np.zeros((len(rows), values.shape[1])), np.zeros((len(rows), values.shape[1]))
    for i, row in enumerate(rows.astype(int)):
        for j, column in enumerate(values.T.astype(int)):
            sums = [row[k] * column[k] + row[k + 1] * column[k + 1] for k in (0, 2, 4)]
            lost[i, j] = sum(total - min(max(total, -32768), 32767) for total in sums)
            exact[i, j] = sum((value - zero_point) * weight for value, weight in zip(row, column, strict=True))
    power = np.square(exact).mean(0)
    ratios = (np.square(lost).mean(0)[power > 0] / power[power > 0]) if (power > 0).any() else np.zeros(1)
    expected = -10 * np.log10(ratios.mean()) if ratios.any() else np.inf
    assert saturation_db(rows, zero_point, values) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("channels", [3, 5])
def test_neighbours_stay_within_sixteen_bits_when_an_odd_number_of_channels_gets_company(channels):
    """The image of a stem has a fourth channel in the static form: other weights of its windows are a pair then."""
    positions = 9
    matrix = np.random.default_rng(0).uniform(-0.1, 0.1, (positions * channels, 8)).astype(np.float32)
    matrix[channels : channels + 2] = 1
    values = quantize_columns(matrix, positions=positions, saturation_safe=True).values.astype(int)
    as_it_is = np.pad(values, [(0, len(values) % 2), (0, 0)])
    with_company = np.pad(values.reshape(positions, channels, -1), [(0, 0), (0, 1), (0, 0)]).reshape(-1, values.shape[1])
    for rows in (as_it_is, with_company):
        assert 255 * (rows[0::2] + rows[1::2]).max() < 2**15
