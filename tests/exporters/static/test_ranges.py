import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporters.static.ranges import Grid, calibrate, choose_grid, sample


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 3), (-5, -2), (2, 7), (0, 0)])
def test_a_grid_holds_zero_exactly_and_covers_the_range(low, high):
    grid = Grid.covering(low, high)
    values = np.array([low, 0, high], np.float32)
    assert grid.round(values)[1] == 0
    np.testing.assert_allclose(grid.round(values), values, atol=grid.scale / 2 + 1e-6)
    assert len(np.unique(grid.round(np.linspace(low - 9, high + 9, 5000, dtype=np.float32)))) <= 256


def choose(samples):
    """The grid for images of which all values are known."""
    return choose_grid(samples, np.full(samples.shape[1], 1 / samples.shape[1], np.float32))


def test_an_even_spread_is_covered():
    even = np.random.default_rng(0).uniform(0, 10, (1, 20_000)).astype(np.float32)
    assert choose(even) == Grid.covering(0, float(even.max()))


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
    """Their powers of two and a half within an image, as an amplitude relative to its own; those to one and a half over the images."""
    generator = np.random.default_rng(seed)
    samples = (generator.laplace(size=(12, 3000)) * generator.uniform(0.5, 4, (12, 1))).astype(np.float32)
    shares = generator.uniform(0, 1, 3000).astype(np.float32)
    shares /= shares.sum()
    low, high = float(samples.min()), float(samples.max())

    def error(factor, within, over):
        step = factor * (high - low) / 255
        zero = np.rint(-factor * low / step)
        codes = np.clip(np.rint(samples.astype(float) / step) + zero, 0, 255)
        wrong, own = ((np.abs(values) ** within @ shares) ** (1 / within) for values in ((codes - zero) * step - samples, samples))
        return ((wrong / own) ** over).mean()

    factors = [0.97**i for i in range(70)]
    powers = ((2.5, 1.5), (2, 1.5), (6, 1.5), (2.5, 6))
    best = {power: min(factors, key=lambda factor, power=power: error(factor, *power)) for power in powers}
    assert list(best.values()).count(best[2.5, 1.5]) == 1, "the powers must matter"
    assert choose_grid(samples, shares).scale == pytest.approx(best[2.5, 1.5] * (high - low) / 255, rel=1e-5)


def test_a_sample_holds_the_ends_of_each_image_and_stands_for_all_of_its_values():
    values = np.random.default_rng(0).standard_normal((3, 50_000)).astype(np.float32)
    kept, shares = sample(values, np.random.default_rng(1))
    ordered = np.sort(values, axis=1)
    np.testing.assert_array_equal(np.sort(kept, axis=1)[:, :64], ordered[:, :64])
    np.testing.assert_array_equal(np.sort(kept, axis=1)[:, -64:], ordered[:, -64:])
    assert kept.shape[1] == len(shares) < 1000
    assert shares.sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(np.abs(kept) ** 2 @ shares, 1, atol=0.2)
    few = values[:, :600]
    kept, shares = sample(few, np.random.default_rng(1))
    np.testing.assert_array_equal(kept, few)
    np.testing.assert_allclose(shares, 1 / 600, rtol=1e-6)


@pytest.mark.parametrize("place", [0, 77, 39_999])
def test_what_is_rare_and_large_is_seen(place):
    """One value of 40,000 in each image: so rare that a sample of all values would not hold it."""
    values = np.random.default_rng(0).uniform(0, 1, (8, 40_000)).astype(np.float32)
    values[:, place] = 6
    grid = choose_grid(*sample(values, np.random.default_rng(1)))
    assert grid.zero_point == 0
    assert 0.9 * 6 < 255 * grid.scale <= 6.001


def test_one_image_unlike_all_others_does_not_spoil_their_grid():
    samples = np.random.default_rng(0).uniform(0, 7, (100, 500)).astype(np.float32)
    alone = choose(samples)
    samples[40] *= 117
    assert 1 <= choose(samples).scale / alone.scale < 2
    # Where a quarter is unlike the others, the grid is for all.
    samples[:25] = 117 * samples[25:50].clip(max=7)
    assert choose(samples).scale / alone.scale > 30


def test_images_that_show_nothing_do_not_count():
    samples = np.zeros((3, 400), np.float32)
    assert choose(samples).scale == 1
    samples[1] = np.linspace(-1, 4, 400)
    assert choose(samples) == Grid.covering(-1, 4)


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
