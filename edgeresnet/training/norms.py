"""Statistics of BatchNorm layers, for weights that no training step has used."""

from typing import Final

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from edgeresnet.images import Pixels
from edgeresnet.progress import Track, silent
from edgeresnet.training.augmentation import normalization, normalize

IMAGES: Final = 4096
BATCH: Final = 128


def estimate_norms(network: nn.Module, images: Pixels, size: int, *, track: Track = silent) -> None:
    """Estimate the statistics anew, in place, from training images as the network will meet them: not augmented.

    What training leaves behind follows augmented images, and averaged weights need statistics of their own (Izmailov et al.,
    arXiv:1803.05407). On 1,000 images that were held out, the CIFAR ResNet-18 of a run with cutout went from a loss of 0.393 to
    0.377 by that, from 87.8 % to 88.4 %; that of a run without cutout from 0.392 to 0.384, from 88.2 % to 87.9 %.

    Args:
        network: Normalized float in, logits out; in eval mode afterwards.
        images: Training images, uint8 (N, H, W, 3). A fixed choice of at most ``IMAGES`` of them is looked at.
        size: Height and width to resize them to.
        track: Progress reporter.
    """
    device = next(network.parameters()).device
    statistics = normalization(device)
    chosen = torch.from_numpy(choose_images(images, IMAGES))
    # Parts of equal size, since each of them counts the same.
    batches = torch.tensor_split(chosen, max(1, len(chosen) // BATCH))
    inputs = (normalize(batch.to(device), *statistics, size) for batch in track(batches, "estimating normalization", len(batches)))
    update_bn(inputs, network)
    network.eval()


def choose_images(images: Pixels, count: int) -> Pixels:
    """At most ``count`` images, at random but the same of the same images every time."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen: Pixels = images[order[:count].numpy()]
    return chosen
