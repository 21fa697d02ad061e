"""Statistics of BatchNorm layers, for weights that no training step has used."""

import copy
from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeresnet.datasets import LabelledImages
from edgeresnet.evaluation import images_at_once
from edgeresnet.images import Pixels
from edgeresnet.preprocessing import Preprocessing
from edgeresnet.progress import Track, silent
from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.loop import Evaluation, evaluate

IMAGES: Final = 4096
BATCH: Final = 128


def renew_norms(
    network: nn.Module,
    images: Pixels,
    validation: LabelledImages,
    preprocessing: Preprocessing,
    *,
    report: Callable[[str], None] = lambda line: None,
    track: Track = silent,
) -> Evaluation:
    """Estimate the statistics anew, in place, if the loss on held-out images is no larger with them.

    On 1,000 images that were held out, the CIFAR ResNet-18 of a run with cutout went from a loss of 0.393 to 0.377 by that, from 87.8 %
    to 88.4 %; that of a run without cutout from 0.392 to 0.384, from 88.2 % to 87.9 %. But that of a run with TrivialAugment and CutMix,
    which has seen few images that were whole, went from 0.197 to 0.286, from 93.6 % to 90.9 %.

    Args:
        network: Normalized float in, logits out; in eval mode afterwards.
        images: As ``estimate_norms`` takes them.
        validation: Images that were held out.
        preprocessing: Of the network.
        report: Receives a line of text.
        track: Progress reporter.

    Returns:
        What the network makes of the held-out images then.
    """
    before, trained = evaluate(network, validation, preprocessing, track=track), copy.deepcopy(network.state_dict())
    if not estimate_norms(network, images, preprocessing, track=track):
        return before
    after = evaluate(network, validation, preprocessing, track=track)
    is_worse = after.loss > before.loss
    if is_worse:
        network.load_state_dict(trained)
    report(
        f"normalization estimated anew: the held-out loss goes from {before.loss:.4f} to {after.loss:.4f}, top-1 from {before.top1:.2%} to "
        f"{after.top1:.2%}: {'left as it was' if is_worse else 'taken'}"
    )
    return before if is_worse else after


@torch.no_grad()
def estimate_norms(network: nn.Module, images: Pixels, preprocessing: Preprocessing, *, track: Track = silent) -> int:
    """Estimate the statistics anew, in place, from training images as the network will meet them: not augmented.

    What training leaves behind follows augmented images, and averaged weights need statistics of their own (Izmailov et al.,
    arXiv:1803.05407).

    Args:
        network: Normalized float in, logits out; in eval mode afterwards. All but its norms is so from the start: dropout would
            falsify their statistics.
        images: Training images, uint8 (N, H, W, C) of the input's size. A fixed choice of at most ``IMAGES`` of them is looked at.
        preprocessing: Of the network.
        track: Progress reporter.

    Returns:
        Number of norms that have statistics.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    device = next(network.parameters()).device
    statistics = normalization(preprocessing, device)
    chosen = torch.from_numpy(choose_images(images, IMAGES))
    # Parts of equal size, since each of them counts the same.
    batches = torch.tensor_split(chosen, max(1, len(chosen) // images_at_once(BATCH, images)))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in track(batches, "estimating normalization", len(batches)):
        network(normalize(batch.to(device), *statistics, images.shape[1]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return len(norms)


def choose_images(images: Pixels, count: int) -> Pixels:
    """At most ``count`` images, at random but the same of the same images every time."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen: Pixels = images[order[:count].numpy()]
    return chosen
