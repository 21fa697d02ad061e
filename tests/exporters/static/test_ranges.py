import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporters.static.ranges import Grid, calibrate, choose_grid


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 3), (-5, -2), (2, 7), (0, 0)])
def test_a_grid_holds_zero_exactly_and_covers_the_range(low, high):
    grid = Grid.covering(low, high)
    values = ends(low, 0, high)
    assert grid.round(values)[1] == 0
    np.testing.assert_allclose(grid.round(values), values, atol=grid.scale / 2 + 1e-6)
    assert len(np.unique(grid.round(np.linspace(low - 9, high + 9, 5000, dtype=np.float32)))) <= 256


def ends(*values):
    """Smallest or largest values of images."""
    return np.array(values, np.float32)


def test_rare_large_values_are_clipped_and_an_even_spread_is_not():
    generator = np.random.default_rng(0)
    even = generator.uniform(0, 10, (1, 20_000)).astype(np.float32)
    assert choose_grid(even, ends(0), ends(10)).scale == pytest.approx(10 / 255)
    peaked = np.abs(generator.laplace(size=(1, 20_000))).astype(np.float32)  # up to about 10
    grid = choose_grid(peaked, ends(0), ends(40))
    assert 6 < 255 * grid.scale < 16
    assert np.abs(grid.round(peaked) - peaked).mean() < 0.5 * np.abs(Grid.covering(0, 40).round(peaked) - peaked).mean()


def test_calibration_sees_all_images():
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    two = onnx.numpy_helper.from_array(np.float32(2), "two")
    model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:], [two]), opset_imports=[helper.make_opsetid("", 18)])
    images = np.zeros((70, 4), np.float32)
    images[-1], images[3] = 5, -1  # in the last batch and in the first
    (grid,) = calibrate(model, ["y"], images).values()
    assert Grid.covering(-2, 10).scale * 0.3 <= grid.scale <= Grid.covering(-2, 10).scale


@pytest.mark.parametrize("seed", range(3))
def test_the_grid_has_the_least_mean_of_what_images_are_wrong_by(seed):
    """Their sixth powers within an image, as an amplitude relative to its own; those to the power of one and a half over the images."""
    generator = np.random.default_rng(seed)
    samples = (generator.laplace(size=(5, 3000)) * generator.uniform(0.5, 4, (5, 1))).astype(np.float32)
    low, high = samples.min(1), 3 * samples.max(1)

    def error(factor, within, over):
        step = factor * float(high.max() - low.min()) / 255
        zero = np.rint(-factor * low.min() / step)
        codes = np.clip(np.rint(samples.astype(float) / step) + zero, 0, 255)
        wrong, own = (np.mean(np.abs(values) ** within, 1) ** (1 / within) for values in ((codes - zero) * step - samples, samples))
        return ((wrong / own) ** over).mean()

    factors = [0.97**i for i in range(90)]
    powers = ((6, 1.5), (2, 1.5), (6, 6))
    best = {power: min(factors, key=lambda factor, power=power: error(factor, *power)) for power in powers}
    assert len(set(best.values())) == len(powers), "the powers must matter"
    assert choose_grid(samples, low, high).scale == pytest.approx(best[6, 1.5] * float(high.max() - low.min()) / 255, rel=1e-5)


def test_one_image_unlike_all_others_does_not_spoil_their_grid():
    samples = np.random.default_rng(0).uniform(0, 7, (100, 500)).astype(np.float32)
    alone = choose_grid(samples, samples.min(1), samples.max(1))
    samples[40] *= 117
    grid = choose_grid(samples, samples.min(1), samples.max(1))
    assert 1 <= grid.scale / alone.scale < 1.5
    # Where a quarter is unlike the others, the grid is for all.
    samples[:25] = 117 * samples[25:50].clip(max=7)
    assert choose_grid(samples, samples.min(1), samples.max(1)).scale / alone.scale > 30


def test_images_that_show_nothing_do_not_count():
    samples = np.zeros((3, 400), np.float32)
    assert choose_grid(samples, ends(0, 0, 0), ends(0, 0, 0)).scale == 1
    # What is so rare that no sample holds it is covered.
    assert choose_grid(samples, ends(0, -1, 0), ends(0, 0, 4)) == Grid.covering(-1, 4)
    samples[1] = np.linspace(-1, 4, 400)
    assert choose_grid(samples, samples.min(1), samples.max(1)) == Grid.covering(-1, 4)


def test_calibration_covers_the_ends_of_an_even_spread():
    node = helper.make_node("Identity", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 400]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 18)])
    values = np.random.default_rng(0).uniform(-3, 7, (70, 400)).astype(np.float32)
    (grid,) = calibrate(model, ["y"], values).values()
    assert grid.scale == pytest.approx((values.max() - values.min()) / 255, rel=1e-6)
    assert grid.zero_point == round(255 * 3 / 10)


def test_a_range_is_taken_as_it_is_and_nothing_has_a_step_of_one():
    assert (Grid.covering(0, 0.5).scale, Grid.covering(-0.5, 0).scale) == (np.float32(0.5 / 255), np.float32(0.5 / 255))
    assert (Grid.covering(0, 0).scale, Grid.covering(0, 0).zero_point) == (1, 0)


@pytest.mark.parametrize("first", [True, False])
def test_calibration_sees_the_first_image_and_small_values(first):
    node = helper.make_node("Identity", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 400]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 18)])
    values = np.random.default_rng(0).uniform(0, 0.25, (33, 400)).astype(np.float32)
    if first:
        values[0] = np.linspace(0, 0.5, 400)
    (grid,) = calibrate(model, ["y"], values).values()
    assert grid.scale == pytest.approx(values.max() / 255, rel=1e-6 if not first else 0.25)
    assert (grid.scale > 0.26 / 255) == first
