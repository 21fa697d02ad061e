"""Augmentation and normalization of whole batches of uint8 images at once, where the images are: no worker processes needed.

What is random comes from a generator on the CPU, whatever the device, so that the seed decides the same images everywhere. It is
small, and goes to the device without anybody waiting for it.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as operations
from torchvision.transforms.v2 import functional as newer

from edgeresnet.preprocessing import Preprocessing

# Steps between no change and the strongest.
STRENGTHS: Final = 30
# Rows of an affine function of x and y.
Motion = tuple[tuple[float, float, float], tuple[float, float, float]]


def alternate_flips(first: Tensor, epoch: int) -> Tensor:
    """Which images to mirror in this epoch: every image in every other one, so that two epochs show both sides once.

    Half of the images begin mirrored. Beats independent coin flips at equal cost in short runs (Jordan, 94% on CIFAR-10 in
    3.29 seconds on a single GPU, arXiv:2404.00498).

    Args:
        first: bool (N,), whether an image is mirrored in epoch 0.
        epoch: Number of the epoch.
    """
    return first ^ bool(epoch % 2)


def crop_and_flip(images: Tensor, flips: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to ``padding`` pixels each way, filling from its reflection, and mirror those in ``flips``.

    The same as a random crop out of the reflect-padded image.

    Args:
        images: uint8 (N, H, W, C).
        flips: bool (N,), on the same device.
        padding: Largest shift in pixels.
        generator: Source of the shifts.
    """
    (count, height, width, _), device = images.shape, images.device
    shifts = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator).to(device, non_blocking=True)
    rows = _reflect(torch.arange(height, device=device) + shifts[0], height)
    columns = _reflect(torch.arange(width, device=device) + shifts[1], width)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    return images[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(images: Tensor, side: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Paint a square of ``side`` pixels at a random place of every image (DeVries and Taylor, arXiv:1708.04552).

    Args:
        images: uint8 (N, H, W, C).
        side: Side of the square; its centre may lie anywhere in the image, so parts may fall outside.
        fill: uint8 (C,), the colour, on the same device.
        generator: Source of the places.
    """
    (count, height, width, _), device = images.shape, images.device
    top = (torch.randint(0, height, (count, 1), generator=generator) - side // 2).to(device, non_blocking=True)
    left = (torch.randint(0, width, (count, 1), generator=generator) - side // 2).to(device, non_blocking=True)
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    mask = inside_rows[:, :, None] & inside_columns[:, None, :]
    return torch.where(mask[..., None], fill, images)


def augment_trivially(images: Tensor, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Change every image by one of fourteen operations, of any strength (TrivialAugment, "wide"; Mueller and Hutter, arXiv:2103.10158).

    The images must be in random order: the first fourteenth of them gets the first operation, and so on, and all of a part get the
    same strength. So each image meets every operation and strength equally often, and a batch takes fourteen operations, not one an
    image.

    Args:
        images: uint8 (N, H, W, C) of one or three channels.
        fill: uint8 (C,), the colour of what moves in, on the same device.
        generator: Source of the strengths.
    """
    count = len(MOTIONS) + len(RECOLOURINGS)
    # 0 to 1, 30 steps between, of either sign where it has a meaning.
    strengths = (torch.randint(0, STRENGTHS + 1, (count,), generator=generator) / STRENGTHS).tolist()
    signs = (1 - 2 * torch.randint(0, 2, (count,), generator=generator)).tolist()
    changes = list(zip(torch.tensor_split(images, count), strengths, signs, strict=True))
    moved, recoloured = changes[: len(MOTIONS)], changes[len(MOTIONS) :]
    results = [move(part, motion(sign * strength), fill) for motion, (part, strength, sign) in zip(MOTIONS, moved, strict=True)]
    for recolour, (part, strength, sign) in zip(RECOLOURINGS, recoloured, strict=True):
        results.append(recolour(part.permute(0, 3, 1, 2), strength, sign).permute(0, 2, 3, 1))
    return torch.cat(results)


def _rotation(strength: float) -> Motion:
    angle = math.radians(135 * strength)
    return (math.cos(angle), -math.sin(angle), 0.0), (math.sin(angle), math.cos(angle), 0.0)


# Of a strength in [-1, 1], the place that a pixel comes from, as an affine function of its own: of x and y from the centre.
MOTIONS: Final[tuple[Callable[[float], Motion], ...]] = (
    lambda strength: ((1, 0.99 * strength, 0), (0, 1, 0)),
    lambda strength: ((1, 0, 0), (0.99 * strength, 1, 0)),
    lambda strength: ((1, 0, 32 * strength), (0, 1, 0)),
    lambda strength: ((1, 0, 0), (0, 1, 32 * strength)),
    _rotation,
)
# From uint8 (N, C, H, W), a strength in [0, 1] and a sign to uint8 of the same shape. With the motions the paper's "wide" space.
RECOLOURINGS: Final[tuple[Callable[[Tensor, float, int], Tensor], ...]] = (
    lambda images, strength, sign: images,
    lambda images, strength, sign: operations.adjust_brightness(images, 1 + sign * 0.99 * strength),
    lambda images, strength, sign: operations.adjust_saturation(images, 1 + sign * 0.99 * strength),
    lambda images, strength, sign: operations.adjust_contrast(images, 1 + sign * 0.99 * strength),
    lambda images, strength, sign: sharpen(images, 1 + sign * 0.99 * strength),
    lambda images, strength, sign: operations.posterize(images, 8 - round(6 * strength)),
    lambda images, strength, sign: operations.solarize(images, 255 * (1 - strength)),
    lambda images, strength, sign: operations.autocontrast(images),
    lambda images, strength, sign: newer.equalize(images),  # type: ignore[attr-defined]  # the older one goes through images one by one
)


def _find_sources(motion: Motion, height: int, width: int) -> Tensor:
    """Number of the pixel that each pixel (H * W,) comes from; H * W where that lies outside."""
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    column, row = (a * x + b * y + c for a, b, c in motion)
    column, row = (column + (width - 1) / 2).round().long(), (row + (height - 1) / 2).round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, row * width + column, height * width).flatten()


def move(images: Tensor, motion: Motion, fill: Tensor) -> Tensor:
    """Move the pixels of images, uint8 (N, H, W, C), to the nearest place; ``fill``, uint8 (C,), is what moves in."""
    _, height, width, _ = images.shape
    sources = _find_sources(motion, height, width).to(images.device, non_blocking=True)
    pixels = torch.cat([images.flatten(1, 2), fill.expand(len(images), 1, -1)], 1)
    return pixels[:, sources].view_as(images)


def sharpen(images: Tensor, factor: float) -> Tensor:
    """As torchvision's ``adjust_sharpness``, uint8 (N, C, H, W), which has the device wait for a kernel of nine numbers."""
    pixels = images.float()
    smooth = pixels.clone()
    # Of 3 x 3 ones with a 5 in the middle, over 13; the border stays.
    smooth[..., 1:-1, 1:-1] = ((9 * functional.avg_pool2d(pixels, 3, 1) + 4 * pixels[..., 1:-1, 1:-1]) / 13).round()
    return (pixels * factor + smooth * (1 - factor)).clamp(0, 255).to(torch.uint8)


def cut_mix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Paint a part of each image's neighbour over it, the last one's over the first (CutMix; Yun et al., arXiv:1905.04899).

    Args:
        images: uint8 (N, H, W, C), in random order.
        generator: Source of the place, which is the same in all of them, and of its share of the area, even between 0 and 1.

    Returns:
        The mixed images, and the share of each that is still its own; the rest is the class of the image before it.
    """
    _, height, width, _ = images.shape
    share, across, down = torch.rand(3, generator=generator).tolist()
    side = math.sqrt(share)
    rows = slice(*_span(height, side, down))
    columns = slice(*_span(width, side, across))
    mixed = images.clone()
    mixed[:, rows, columns] = images.roll(1, 0)[:, rows, columns]
    painted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - painted / (height * width)


def _span(length: int, share: float, centre: float) -> tuple[int, int]:
    """Start and end of a piece of a side, cut off where the side ends."""
    half, middle = round(length * share) // 2, int(length * centre)
    return max(0, middle - half), min(length, middle + half)


def normalization(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32 (C,) each, that ``normalize`` takes."""
    return torch.tensor(preprocessing.mean, device=device), torch.tensor(preprocessing.std, device=device)


def normalize(images: Tensor, mean: Tensor, std: Tensor, size: int) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, size, size) in channels_last memory, normalized, resized with antialiasing."""
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    if pixels.shape[-1] != size:
        pixels = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return pixels.contiguous(memory_format=torch.channels_last)


def _reflect(indices: Tensor, length: int) -> Tensor:
    """Fold indices that lie outside ``[0, length)`` back in, without repeating the border."""
    indices = indices.abs()
    return torch.where(indices >= length, 2 * (length - 1) - indices, indices)
