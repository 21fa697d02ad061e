import torch

from edgeresnet.training.augmentation import alternate_flips, crop_and_flip, cut_out, normalize


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
