import math

import pytest
import torch
from torchvision.transforms import functional as operations

from edgeresnet.training.augmentation import (
    MOTIONS,
    RECOLOURINGS,
    alternate_flips,
    augment_trivially,
    crop_and_flip,
    cut_mix,
    cut_out,
    move,
    normalize,
    sharpen,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.randint(0, 256, (64, 32, 32, 3), generator=generator(), dtype=torch.uint8)


def test_every_crop_is_a_window_of_the_reflected_image_mirrored_where_asked():
    flips = torch.arange(64) % 2 == 0
    result = crop_and_flip(IMAGES, flips, 4, generator())
    padded = torch.nn.functional.pad(IMAGES.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="reflect").byte()
    places = set()
    for i in range(64):
        window = result[i].flip(1) if flips[i] else result[i]
        found = [(y, x) for y in range(9) for x in range(9) if torch.equal(padded[i, :, y : y + 32, x : x + 32].permute(1, 2, 0), window)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 30


def test_nothing_changes_without_shift_and_flip():
    assert torch.equal(crop_and_flip(IMAGES, torch.zeros(64, dtype=torch.bool), 0, generator()), IMAGES)


def test_two_epochs_show_both_sides_of_every_image():
    first = torch.rand(100, generator=generator()) < 0.5
    assert torch.equal(alternate_flips(first, 0), first)
    assert torch.equal(alternate_flips(first, 1), ~first)
    assert torch.equal(alternate_flips(first, 2), first)


def test_cutout_paints_one_square_at_a_random_place():
    fill = torch.tensor([1, 2, 3], dtype=torch.uint8)
    grey = torch.full_like(IMAGES, 200)
    result = cut_out(grey, 8, fill, generator())
    painted = (result == fill).all(-1)
    assert torch.equal(result[~painted], grey[~painted])
    sizes = painted.sum((1, 2))
    assert sizes.max() == 64
    assert sizes.min() >= 16
    rows, columns = painted.any(2).sum(1), painted.any(1).sum(1)
    assert torch.equal(rows * columns, sizes)
    assert len({tuple(mask.flatten().nonzero()[0].tolist()) for mask in painted}) > 40


def test_normalize_scales_and_resizes():
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.5])
    result = normalize(IMAGES, mean, std, 32)
    expected = (IMAGES.double() / 255 - mean) / std
    torch.testing.assert_close(result.permute(0, 2, 3, 1).double(), expected, atol=1e-5, rtol=0)
    assert result.is_contiguous(memory_format=torch.channels_last)
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255
    small = normalize(checkerboard.byte()[None, ..., None].expand(1, 32, 32, 3), mean, std, 16)
    assert small.shape == (1, 3, 16, 16)
    middle = small[..., 2:-2, 2:-2]
    torch.testing.assert_close(middle, ((0.5 - mean) / std).view(1, 3, 1, 1).expand_as(middle), atol=1e-2, rtol=0)


GREY = torch.full((3,), 120, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("motion", "settings"),
    [
        (MOTIONS[0](0.5), {"shear": [math.degrees(math.atan(0.495)), 0.0]}),
        (MOTIONS[1](-0.7), {"shear": [0.0, -math.degrees(math.atan(0.693))]}),
        (MOTIONS[2](0.25), {"translate": [-8, 0]}),
        (MOTIONS[3](-0.5), {"translate": [0, 16]}),
        (MOTIONS[4](0.3), {"angle": -40.5}),
    ],
)
def test_motions_are_those_of_torchvision(motion, settings):
    moved = move(IMAGES, motion, GREY)
    arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | settings
    expected = operations.affine(IMAGES.permute(0, 3, 1, 2), **arguments, fill=[120.0] * 3).permute(0, 2, 3, 1)
    assert (moved == expected).all(-1).float().mean() > 0.999
    assert not torch.equal(moved, IMAGES)


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0, 1.99])
def test_sharpening_is_that_of_torchvision(factor):
    images = IMAGES.permute(0, 3, 1, 2)
    difference = (sharpen(images, factor).int() - operations.adjust_sharpness(images, factor).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.05


def test_every_part_of_a_batch_gets_its_own_change():
    assert len(MOTIONS) + len(RECOLOURINGS) == 14
    one, other = (augment_trivially(IMAGES, GREY, generator(seed)) for seed in (1, 2))
    assert torch.equal(one, augment_trivially(IMAGES, GREY, generator(1)))
    assert (one.shape, one.dtype) == (IMAGES.shape, torch.uint8)
    parts = [torch.tensor_split(each, 14) for each in (IMAGES, one, other)]
    changed = [index for index, (before, first, second) in enumerate(zip(*parts, strict=True)) if not (first == before).all()]
    # The sixth is left as it is.
    assert 5 not in changed
    assert len(changed) >= 11
    differing = [index for index, (_, first, second) in enumerate(zip(*parts, strict=True)) if not torch.equal(first, second)]
    # Three have no strength.
    assert not {5, 12, 13} & set(differing)
    assert len(differing) >= 9


def test_a_batch_smaller_than_the_number_of_changes_is_taken():
    assert augment_trivially(IMAGES[:3], GREY, generator()).shape == (3, 32, 32, 3)
    assert augment_trivially(IMAGES[:, :, :, :1], GREY[:1], generator()).shape == (64, 32, 32, 1)


def test_cut_mix_paints_one_window_of_the_image_before():
    shares = []
    for seed in range(200):
        mixed, share = cut_mix(IMAGES, generator(seed))
        theirs = (mixed != IMAGES).any(-1)
        assert torch.equal(mixed, torch.where(theirs[..., None], IMAGES.roll(1, 0), IMAGES))
        window = theirs.any(0)
        rows, columns = window.any(1).sum(), window.any(0).sum()
        assert rows * columns == window.sum()
        assert share == pytest.approx(1 - float(window.sum()) / 1024)
        shares.append(share)
    # Uniform, but for windows that are cut off at the border.
    assert 0.5 < sum(shares) / len(shares) < 0.75
    assert min(shares) < 0.25
    assert max(shares) > 0.95
